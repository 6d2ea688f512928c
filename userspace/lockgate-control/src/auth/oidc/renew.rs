//! Asking a provider anew, without the person: whether a login still stands, and what groups they are in now (core, 12).

use super::{Arrived, LoginRefusal, Oidc, Wanted, chain, groups, refuse};
use crate::auth::session::Session;
use lockgate_model::{Secret, Timestamp};
use openidconnect::{
    OAuth2TokenResponse, RefreshToken, RequestTokenError, StandardErrorResponse, TokenResponse,
    core::CoreErrorResponseType,
};

/// Why a login was not renewed.
#[derive(Debug)]
pub(crate) enum NotRenewed {
    /// The provider says that it is over, or nobody can be asked.
    Over(LoginRefusal),
    /// The provider did not answer.
    Away(LoginRefusal),
}

impl Oidc {
    /// The same login, as the provider knows it now.
    pub(crate) async fn renew(&self, session: &Session, now: Timestamp) -> Result<Arrived, NotRenewed> {
        let Some(refresh) = &session.refresh else {
            let detail = "the provider gave nothing to ask it anew with; log in again";
            return Err(NotRenewed::Over(refuse("no_refresh_token", detail)));
        };
        let metadata = self.metadata(None).await.map_err(NotRenewed::Away)?;
        let client = self.client(&metadata);
        let token = RefreshToken::new(refresh.expose().clone());
        let request = client.exchange_refresh_token(&token).map_err(|_| {
            NotRenewed::Over(refuse("provider_unusable", "the provider's metadata names no token endpoint"))
        })?;
        let answer = request.request_async(&self.http).await.map_err(|error| refused(&error))?;
        let judged = |refusal: LoginRefusal| match refusal.code {
            "provider_unreachable" => NotRenewed::Away(refusal),
            _ => NotRenewed::Over(refusal),
        };
        let mut id_token = session.id_token.clone();
        let person = match answer.id_token() {
            Some(token) => {
                id_token = Some(Secret::new(token.to_string()));
                let claims =
                    self.believed(&answer, Wanted::NoneOr(&session.nonce), now).await.map_err(judged)?;
                let groups = self.groups_of(&claims, &answer).await.map_err(judged)?;
                self.person(&claims, groups).map_err(judged)?
            }
            // Without one, only whom the access token is for can be asked.
            None => {
                let subject =
                    session.person.id.strip_prefix(&format!("oidc:{}:", self.name)).unwrap_or_default();
                let told = self.userinfo(answer.access_token(), subject).await.map_err(judged)?;
                let told = told.ok_or_else(|| {
                    judged(refuse("no_id_token", "the provider gave no ID token and has no userinfo"))
                })?;
                let mut person = session.person.clone();
                let now = groups(told.get(&self.settings.groups_claim)).map_err(judged)?;
                person.groups.insert(self.settings.groups_claim.clone(), now);
                person
            }
        };
        if person.id != session.person.id {
            return Err(NotRenewed::Over(refuse(
                "bad_subject",
                "the provider's new token is of somebody else",
            )));
        }
        let newer = answer.refresh_token().map(|token| Secret::new(token.secret().clone()));
        Ok(Arrived {
            person,
            // Nobody proved anything: the provider was asked, not the person.
            proved: session.proved,
            id_token,
            sid: session.sid.clone(),
            nonce: session.nonce.clone(),
            refresh: newer.or_else(|| session.refresh.clone()),
            until: session.until,
        })
    }
}

/// Only the word for a token that is good no more (RFC 6749, 5.2) ends a login; everything else may be a provider in trouble.
fn refused<E: std::error::Error + 'static>(
    error: &RequestTokenError<E, StandardErrorResponse<CoreErrorResponseType>>,
) -> NotRenewed {
    match error {
        RequestTokenError::ServerResponse(answer)
            if *answer.error() == CoreErrorResponseType::InvalidGrant =>
        {
            NotRenewed::Over(refuse("login_over", "the provider says that this login is over"))
        }
        RequestTokenError::ServerResponse(answer) => NotRenewed::Away(refuse(
            "provider_unreachable",
            format!("the provider refuses to renew the login: {}", answer.error()),
        )),
        RequestTokenError::Request(_) | RequestTokenError::Parse(..) | RequestTokenError::Other(_) => {
            NotRenewed::Away(refuse(
                "provider_unreachable",
                format!("the login cannot be renewed: {}", chain(error)),
            ))
        }
    }
}
