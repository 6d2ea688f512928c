//! From an issuer's claims to a job. `sub` is not read: its format is the repository's to configure.

use crate::{
    CiProvider,
    jwt::{Claims, TokenError},
};
use lockgate_model::workload::CiJob;

fn text(claims: &Claims, name: &str) -> Option<String> {
    claims.text(name).map(str::to_owned)
}

fn needed(claims: &Claims, name: &str) -> Result<String, TokenError> {
    claims.id(name).ok_or_else(|| TokenError::Claim(name.to_owned()))
}

/// The key of the job, and its facts.
/// <https://docs.github.com/en/actions/reference/security/oidc#custom-claims-provided-by-github>
pub(super) fn github(claims: &Claims) -> Result<(String, CiJob), TokenError> {
    let repository = needed(claims, "repository")?;
    let run_id = needed(claims, "run_id")?;
    let run_attempt = claims.id("run_attempt");
    // The job; where the issuer does not say it (GitHub Enterprise Server before 3.17), the run is the best there is,
    // and two jobs of one run on one host are then one too many.
    let job_id = claims.id("check_run_id");
    let key = match &job_id {
        Some(job) => format!("job {job}"),
        None => format!("run {run_id} attempt {}", run_attempt.as_deref().unwrap_or("1")),
    };
    // `acme/billing/.github/workflows/deploy.yml@refs/heads/main`
    let file = claims.text("workflow_ref").and_then(|reference| {
        let path = reference.split('@').next()?;
        path.rsplit('/').next().map(str::to_owned)
    });
    let job = CiJob {
        provider: CiProvider::GithubActions.as_str().to_owned(),
        workflow: file.or_else(|| text(claims, "workflow")),
        run_url: Some(format!("https://github.com/{repository}/actions/runs/{run_id}"))
            .filter(|_| claims.text("iss") == Some("https://token.actions.githubusercontent.com")),
        git_ref: text(claims, "ref"),
        source_branch: text(claims, "head_ref").filter(|branch| !branch.is_empty()),
        ref_protected: claims.flag("ref_protected"),
        commit: text(claims, "sha"),
        event_name: text(claims, "event_name"),
        actor: text(claims, "actor"),
        repository: Some(repository),
        run_id: Some(run_id),
        run_attempt,
        job_id,
        ..CiJob::default()
    };
    Ok((key, job))
}

/// <https://docs.gitlab.com/ci/secrets/id_token_authentication/#token-payload>
pub(super) fn gitlab(claims: &Claims, issuer: &str) -> Result<(String, CiJob), TokenError> {
    let project = needed(claims, "project_path")?;
    let job_id = needed(claims, "job_id")?;
    // A fork's merge request runs in the fork with the parent's claims; these name where the job really is.
    let runs_in = text(claims, "job_project_path").unwrap_or_else(|| project.clone());
    let git_ref = claims.text("ref").map(|name| match claims.text("ref_type") {
        Some("tag") => format!("refs/tags/{name}"),
        Some("branch") => format!("refs/heads/{name}"),
        _ => name.to_owned(),
    });
    // `gitlab.example.com/acme/billing//.gitlab-ci.yml@refs/heads/main`
    let file = claims.text("ci_config_ref_uri").and_then(|uri| {
        let path = uri.split("//").nth(1)?.split('@').next()?;
        Some(path.to_owned())
    });
    let job = CiJob {
        provider: CiProvider::Gitlab.as_str().to_owned(),
        workflow: file,
        run_url: Some(format!("{}/{runs_in}/-/jobs/{job_id}", issuer.trim_end_matches('/'))),
        run_id: claims.id("pipeline_id"),
        git_ref: text(claims, "ref_path").or(git_ref),
        // A fork's protected branch is not the parent's.
        ref_protected: claims.flag("ref_protected").filter(|_| runs_in == project),
        commit: text(claims, "sha"),
        event_name: text(claims, "pipeline_source"),
        actor: text(claims, "user_login"),
        runner: claims.id("runner_id"),
        repository: Some(runs_in),
        job_id: Some(job_id.clone()),
        ..CiJob::default()
    };
    Ok((format!("job {job_id}"), job))
}
