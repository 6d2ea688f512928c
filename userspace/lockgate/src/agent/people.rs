//! From what the configuration says of logins to what the control plane is given: secrets and files read, the certificate of the
//! listener, and the first administrator's token.

use super::targets;
use crate::config::{
    Config,
    login::{Kind, Oidc, Provider, Saml},
};
use anyhow::Context as _;
use lockgate_control::{
    Control,
    auth::{
        bootstrap::WARNING,
        settings::{
            BootstrapSettings, LoginSettings, OidcSettings, ProviderKind, ProviderSettings, SamlSettings,
        },
    },
};
use lockgate_model::Secret;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _};
use std::{net::SocketAddr, sync::Arc};

/// Where the first administrator's token is written, below the store.
const BOOTSTRAP_FILE: &str = "bootstrap.token";

/// Everything under `login:`.
pub(super) async fn settings(
    config: &Config,
    listen: Option<SocketAddr>,
) -> anyhow::Result<Option<LoginSettings>> {
    let Some(login) = &config.login else { return Ok(None) };
    let mut providers = Vec::with_capacity(login.providers.len());
    for given in &login.providers {
        let context = || format!("login.providers: {}", given.name);
        providers.push(provider(given).await.with_context(context)?);
    }
    let secure = config.api.tls.is_some() || config.api.behind_proxy;
    if !secure && let Some(listen) = listen {
        tracing::warn!(%listen, "people log in without TLS; cookies are not Secure, which is for this host alone");
    }
    Ok(Some(LoginSettings {
        providers,
        roles: login.roles.clone(),
        groups: login.groups.iter().map(|(group, members)| (group.value.clone(), members.clone())).collect(),
        idle: login.idle,
        lasts: login.lasts,
        bootstrap: login.bootstrap.as_ref().map(|groups| BootstrapSettings {
            groups: groups.iter().map(|group| group.value.clone()).collect(),
            file: config.store.dir.join(BOOTSTRAP_FILE),
        }),
        secure,
        behind_proxy: config.api.behind_proxy,
    }))
}

async fn provider(given: &Provider) -> anyhow::Result<ProviderSettings> {
    let kind = match &given.kind {
        Kind::Oidc(oidc) => ProviderKind::Oidc(oidc_settings(oidc).await?),
        Kind::Saml(saml) => ProviderKind::Saml(saml_settings(saml).await?),
    };
    let speaks_for = given.speaks_for.as_ref();
    Ok(ProviderSettings {
        name: given.name.clone(),
        label: given.label.clone(),
        speaks_for: speaks_for.map(|groups| groups.iter().map(|group| group.value.clone()).collect()),
        kind,
    })
}

async fn oidc_settings(oidc: &Oidc) -> anyhow::Result<OidcSettings> {
    let client_secret = match &oidc.client_secret {
        Some(reference) => {
            let bytes = lockgate_proxy::credential::resolve(reference).await.context("client_secret")?;
            let text = std::str::from_utf8(bytes.expose()).context("client_secret: expected text")?;
            Some(Secret::new(text.to_owned()))
        }
        None => None,
    };
    let ca_pem = match &oidc.ca {
        Some(ca) => Some(targets::material(ca).await.context("ca")?.expose().clone()),
        None => None,
    };
    Ok(OidcSettings {
        issuer: oidc.issuer.clone(),
        client_id: oidc.client_id.clone(),
        client_secret,
        scopes: oidc.scopes.clone(),
        groups_claim: oidc.groups_claim.clone(),
        ca_pem,
        skew: oidc.skew,
    })
}

async fn saml_settings(saml: &Saml) -> anyhow::Result<SamlSettings> {
    let mut certificates = Vec::new();
    for reference in &saml.certificates {
        let pem = targets::material(reference).await.context("certificates")?;
        for certificate in CertificateDer::pem_slice_iter(pem.expose()) {
            certificates.push(certificate.context("certificates: not PEM")?.to_vec());
        }
    }
    Ok(SamlSettings {
        entity_id: saml.entity_id.clone(),
        sso_url: saml.sso_url.clone(),
        certificates,
        audience: saml.audience.clone(),
        groups_attribute: saml.groups_attribute.clone(),
        email_attribute: saml.email_attribute.clone(),
        name_attribute: saml.name_attribute.clone(),
        skew: saml.skew,
    })
}

/// `api.tls`, as a listener uses it.
pub(super) async fn tls(config: &Config) -> anyhow::Result<Option<Arc<rustls::ServerConfig>>> {
    let Some((chain, key)) = &config.api.tls else { return Ok(None) };
    let chain = targets::material(chain).await.context("api.tls.certificate")?;
    let key = targets::material(key).await.context("api.tls.key")?;
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(chain.expose()).collect();
    let chain = chain.context("api.tls.certificate: not PEM")?;
    let key = PrivateKeyDer::from_pem_slice(key.expose()).context("api.tls.key: not PEM")?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut server = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .context("api.tls: the certificate and its key cannot be used")?;
    server.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Some(Arc::new(server)))
}

/// Writes the first administrator's token, and says where and what it is for.
pub(super) fn bootstrap(control: &Control) -> anyhow::Result<()> {
    if let Some(file) = control.bootstrap()? {
        tracing::warn!(file = %file.display(), "{WARNING}; the one-time token is in this file, for root alone, for an hour");
    }
    Ok(())
}
