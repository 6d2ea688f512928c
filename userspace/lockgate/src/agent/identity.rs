//! The confirmer, from configuration: secrets fetched, servers not asked yet.

use super::targets;
use crate::config::IdentityConfig;
use anyhow::Context as _;
use lockgate_identity::Identity;
use lockgate_intercept::ProcWitness;
use lockgate_model::{
    Secret, SecretRef,
    port::{Ambient, Confirmer, Shelf},
};
use std::sync::Arc;

/// None where nothing is configured: then what the kernel says is all there is.
pub(super) async fn confirmer(
    config: Option<&IdentityConfig>,
    ambient: Arc<dyn Ambient>,
    shelf: Arc<dyn Shelf>,
) -> anyhow::Result<Option<Arc<dyn Confirmer>>> {
    let Some(config) = config else { return Ok(None) };
    let mut settings = config.settings.clone();
    if let (Some(kubernetes), Some(ca)) = (&mut settings.kubernetes, &config.cluster_ca) {
        kubernetes.ca_pem = Some(pem(ca).await.context("identity.kubernetes: ca")?);
    }
    for (issuer, ca) in settings.issuers.iter_mut().zip(&config.issuer_cas) {
        if let Some(ca) = ca {
            issuer.ca_pem = Some(pem(ca).await.with_context(|| format!("identity: {}: ca", issuer.issuer))?);
        }
    }
    for (provider, (ca, token)) in settings.providers.iter_mut().zip(&config.provider_secrets) {
        if let Some(ca) = ca {
            provider.ca_pem = Some(pem(ca).await.with_context(|| format!("identity: {}: ca", provider.url))?);
        }
        if let Some(token) = token {
            let secret = text(token).await.with_context(|| format!("identity: {}: token", provider.url))?;
            provider.token = Some(secret);
        }
    }
    Ok(Some(Arc::new(Identity::start(settings, Arc::new(ProcWitness), ambient, Some(shelf))?)))
}

async fn pem(reference: &SecretRef) -> anyhow::Result<Vec<u8>> {
    Ok(targets::material(reference).await?.expose().clone())
}

async fn text(reference: &SecretRef) -> anyhow::Result<Secret<String>> {
    let bytes = targets::material(reference).await?;
    let text = std::str::from_utf8(bytes.expose()).context("expected text, got other bytes")?;
    Ok(Secret::new(text.trim().to_owned()))
}
