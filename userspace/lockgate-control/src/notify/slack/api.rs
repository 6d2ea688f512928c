//! Calls of Slack's Web API: JSON with a bearer token; `ok` says whether it worked, 429 how long to leave it alone.

use super::{super::webhook::header_value, Slack};
use crate::text::{clip, visible};
use lockgate_model::port::Ambient;
use reqwest::header::{self, HeaderMap, HeaderValue};
use serde_json::Value;
use std::{fmt, time::Duration};

/// When Slack limits and does not say for how long.
const LIMITED: Duration = Duration::from_secs(30);

/// Bytes of Slack's words that are shown.
const WORDS_MAX: usize = 200;

/// Why a call did nothing.
#[derive(Debug)]
pub(super) enum Trouble {
    /// Too much was asked; ask again after this long.
    Limited(Duration),
    /// It failed.
    Failed(String),
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Limited(after) => write!(f, "Slack takes no more for {} s", after.as_secs()),
            Self::Failed(why) => f.write_str(why),
        }
    }
}

/// Who Slack says somebody is.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Member {
    /// Confirmed by Slack; None when there is none, or it is not.
    pub(crate) email: Option<String>,
}

impl Slack {
    pub(super) async fn call(
        &self,
        method: &str,
        body: Value,
        ambient: &dyn Ambient,
    ) -> Result<Value, Trouble> {
        self.send(method, "application/json; charset=utf-8", body.to_string().into_bytes(), ambient).await
    }

    /// Asks who a user is. Whoever is gone, a bot, a guest or of another workspace is nobody here.
    pub(crate) async fn member(&self, user: &str, ambient: &dyn Ambient) -> Result<Member, String> {
        // Methods that read take no JSON.
        let body = form_urlencoded::Serializer::new(String::new()).append_pair("user", user).finish();
        let kind = "application/x-www-form-urlencoded";
        let answer = self.send("users.info", kind, body.into_bytes(), ambient).await;
        let answer = answer.map_err(|trouble| trouble.to_string())?;
        let found = &answer["user"];
        if found["id"] != user || found["team_id"] != self.team() {
            return Err("Slack knows this user in another workspace".to_owned());
        }
        let barred = ["deleted", "is_bot", "is_restricted", "is_ultra_restricted", "is_stranger"];
        if let Some(bar) = barred.into_iter().find(|bar| found[*bar] == true) {
            return Err(format!("Slack says `{bar}` of this user; only members of the workspace decide"));
        }
        let confirmed = found["is_email_confirmed"] == true;
        let email = found["profile"]["email"].as_str().filter(|_| confirmed).map(str::to_owned);
        Ok(Member { email })
    }

    async fn send(
        &self,
        method: &str,
        kind: &'static str,
        body: Vec<u8>,
        ambient: &dyn Ambient,
    ) -> Result<Value, Trouble> {
        let url = self.base.join(method).map_err(|error| Trouble::Failed(error.to_string()))?;
        let token = lockgate_model::Secret::new(format!("Bearer {}", self.token.expose()));
        let mut headers = HeaderMap::new();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
        headers.insert(header::AUTHORIZATION, header_value(&token).map_err(Trouble::Failed)?);
        let read = self.http.call(url, headers, body, ambient).await.map_err(Trouble::Failed)?;
        if read.code == 429 {
            return Err(Trouble::Limited(read.retry_after.unwrap_or(LIMITED)));
        }
        if !(200..300).contains(&read.code) {
            return Err(Trouble::Failed(format!("{method}: HTTP {}", read.code)));
        }
        let answer: Value = serde_json::from_slice(&read.body)
            .map_err(|_| Trouble::Failed(format!("{method}: expected JSON, got something else")))?;
        if answer["ok"] == true {
            return Ok(answer);
        }
        let error = answer["error"].as_str().unwrap_or("no `ok`");
        if error == "ratelimited" {
            return Err(Trouble::Limited(read.retry_after.unwrap_or(LIMITED)));
        }
        let error = visible(&clip(error, WORDS_MAX)).into_owned();
        Err(Trouble::Failed(format!("{method}: Slack says {error}{}", hint(&error))))
    }
}

/// What to do about the errors that an operator can mend.
fn hint(error: &str) -> &'static str {
    match error {
        "channel_not_found" | "not_in_channel" => "; write the channel's id and invite the bot to it",
        "invalid_auth" | "not_authed" | "account_inactive" | "token_revoked" => {
            "; put a valid bot token (xoxb-…) in `bot_token`"
        }
        "missing_scope" => "; the app needs chat:write, users:read and users:read.email",
        _ => "",
    }
}
