//! CI facts from a process's environment. The job could have written every one of them, so they are
//! `claimed`; they are shown, and they identify nobody.
//!
//! Only the variables named below are looked at; the rest of the environment, where secrets live, is
//! neither kept nor searched for anything else.

use super::process::printable;
use lockgate_model::workload::CiJob;
use std::collections::HashMap;

/// Characters of one value that are kept.
const VALUE_CHARS: usize = 512;

/// Variables of one job, by name.
struct Environ<'a>(HashMap<&'a str, &'a [u8]>);

impl<'a> Environ<'a> {
    fn parse(content: &'a [u8]) -> Self {
        let pairs = content.split(|byte| *byte == 0).filter_map(|entry| {
            let at = entry.iter().position(|byte| *byte == b'=')?;
            let name = std::str::from_utf8(&entry[..at]).ok()?;
            is_known(name).then_some((name, &entry[at + 1..]))
        });
        Self(pairs.collect())
    }

    fn text(&self, name: &str) -> Option<String> {
        let value = String::from_utf8_lossy(self.0.get(name)?);
        let value: String = printable(&value).chars().take(VALUE_CHARS).collect();
        (!value.is_empty()).then_some(value)
    }

    /// Of several lines one.
    fn line(&self, name: &str) -> Option<String> {
        let value = String::from_utf8_lossy(self.0.get(name)?);
        let value: String = value.split_whitespace().collect::<Vec<_>>().join(" ");
        let value: String = printable(&value).chars().take(VALUE_CHARS).collect();
        (!value.is_empty()).then_some(value)
    }

    fn is_true(&self, name: &str) -> bool {
        self.flag(name) == Some(true)
    }

    fn flag(&self, name: &str) -> Option<bool> {
        match self.text(name)?.as_str() {
            "true" | "True" | "1" => Some(true),
            "false" | "False" | "0" => Some(false),
            _ => None,
        }
    }
}

/// Prefixes of the providers' own variables, and the few names Jenkins uses without one.
fn is_known(name: &str) -> bool {
    const PREFIXES: [&str; 5] = ["GITHUB_", "CI_", "GITLAB_", "BUILDKITE", "CIRCLE"];
    const JENKINS: [&str; 12] = [
        "JENKINS_URL",
        "JOB_NAME",
        "BUILD_ID",
        "BUILD_NUMBER",
        "BUILD_URL",
        "GIT_BRANCH",
        "GIT_COMMIT",
        "GIT_URL",
        "BUILD_USER_ID",
        "STAGE_NAME",
        "CHANGE_BRANCH",
        "CHANGE_TITLE",
    ];
    // Tokens bear the same prefixes: never even looked at.
    let is_secret = ["TOKEN", "PASSWORD", "SECRET", "KEY"].iter().any(|word| name.contains(word));
    !is_secret && (PREFIXES.iter().any(|prefix| name.starts_with(prefix)) || JENKINS.contains(&name))
}

/// The CI job an environment claims, if it claims one.
pub(super) fn from_environ(content: &[u8]) -> Option<CiJob> {
    let environ = Environ::parse(content);
    if environ.is_true("GITHUB_ACTIONS") {
        Some(github(&environ))
    } else if environ.is_true("GITLAB_CI") {
        Some(gitlab(&environ))
    } else if environ.is_true("BUILDKITE") {
        Some(buildkite(&environ))
    } else if environ.is_true("CIRCLECI") {
        Some(circleci(&environ))
    } else if environ.text("JENKINS_URL").is_some() {
        Some(jenkins(&environ))
    } else {
        None
    }
}

/// <https://docs.github.com/en/actions/reference/workflows-and-actions/variables>
fn github(environ: &Environ<'_>) -> CiJob {
    let repository = environ.text("GITHUB_REPOSITORY");
    let run_id = environ.text("GITHUB_RUN_ID");
    let run_url = match (environ.text("GITHUB_SERVER_URL"), &repository, &run_id) {
        (Some(server), Some(repository), Some(run)) => {
            Some(format!("{server}/{repository}/actions/runs/{run}"))
        }
        _ => None,
    };
    // `acme/billing/.github/workflows/deploy.yml@refs/heads/main`
    let file = environ.text("GITHUB_WORKFLOW_REF").and_then(|reference| {
        let path = reference.split('@').next()?.to_owned();
        path.rsplit('/').next().map(str::to_owned)
    });
    CiJob {
        provider: "github_actions".to_owned(),
        workflow: file.or_else(|| environ.text("GITHUB_WORKFLOW")),
        job: environ.text("GITHUB_JOB"),
        run_attempt: environ.text("GITHUB_RUN_ATTEMPT"),
        git_ref: environ.text("GITHUB_REF"),
        ref_protected: environ.flag("GITHUB_REF_PROTECTED"),
        commit: environ.text("GITHUB_SHA"),
        source_branch: environ.text("GITHUB_HEAD_REF"),
        event_name: environ.text("GITHUB_EVENT_NAME"),
        actor: environ.text("GITHUB_ACTOR"),
        triggering_actor: environ.text("GITHUB_TRIGGERING_ACTOR"),
        repository,
        run_id,
        run_url,
        ..CiJob::default()
    }
}

/// <https://docs.gitlab.com/ci/variables/predefined_variables/>
fn gitlab(environ: &Environ<'_>) -> CiJob {
    let tag = environ.text("CI_COMMIT_TAG").map(|tag| format!("refs/tags/{tag}"));
    let branch = environ.text("CI_COMMIT_BRANCH").map(|branch| format!("refs/heads/{branch}"));
    CiJob {
        provider: "gitlab".to_owned(),
        repository: environ.text("CI_PROJECT_PATH"),
        workflow: environ.text("CI_CONFIG_PATH"),
        job: environ.text("CI_JOB_NAME"),
        run_id: environ.text("CI_PIPELINE_ID"),
        run_url: environ.text("CI_JOB_URL"),
        git_ref: tag.or(branch).or_else(|| environ.text("CI_MERGE_REQUEST_REF_PATH")),
        ref_protected: environ.flag("CI_COMMIT_REF_PROTECTED"),
        commit: environ.text("CI_COMMIT_SHA"),
        commit_author: environ.text("CI_COMMIT_AUTHOR"),
        commit_message: environ.line("CI_COMMIT_MESSAGE").or_else(|| environ.line("CI_COMMIT_TITLE")),
        source_branch: environ.text("CI_MERGE_REQUEST_SOURCE_BRANCH_NAME"),
        merge_request: environ.line("CI_MERGE_REQUEST_TITLE"),
        event_name: environ.text("CI_PIPELINE_SOURCE"),
        actor: environ.text("GITLAB_USER_LOGIN"),
        ..CiJob::default()
    }
}

/// <https://buildkite.com/docs/pipelines/configure/environment-variables>
fn buildkite(environ: &Environ<'_>) -> CiJob {
    let slugs = environ.text("BUILDKITE_ORGANIZATION_SLUG").zip(environ.text("BUILDKITE_PIPELINE_SLUG"));
    let tag = environ.text("BUILDKITE_TAG").map(|tag| format!("refs/tags/{tag}"));
    CiJob {
        provider: "buildkite".to_owned(),
        repository: environ
            .text("BUILDKITE_REPO")
            .or(slugs.map(|(organization, pipeline)| format!("{organization}/{pipeline}"))),
        workflow: environ.text("BUILDKITE_PIPELINE_SLUG"),
        job: environ.text("BUILDKITE_LABEL").or_else(|| environ.text("BUILDKITE_JOB_ID")),
        run_id: environ.text("BUILDKITE_BUILD_ID"),
        run_attempt: environ.text("BUILDKITE_RETRY_COUNT"),
        run_url: environ.text("BUILDKITE_BUILD_URL"),
        git_ref: tag
            .or_else(|| environ.text("BUILDKITE_BRANCH").map(|branch| format!("refs/heads/{branch}"))),
        commit: environ.text("BUILDKITE_COMMIT"),
        commit_author: environ.text("BUILDKITE_BUILD_AUTHOR"),
        commit_message: environ.line("BUILDKITE_MESSAGE"),
        event_name: environ.text("BUILDKITE_SOURCE"),
        actor: environ.text("BUILDKITE_BUILD_CREATOR"),
        ..CiJob::default()
    }
}

/// <https://circleci.com/docs/variables/>
fn circleci(environ: &Environ<'_>) -> CiJob {
    let names = environ.text("CIRCLE_PROJECT_USERNAME").zip(environ.text("CIRCLE_PROJECT_REPONAME"));
    let tag = environ.text("CIRCLE_TAG").map(|tag| format!("refs/tags/{tag}"));
    CiJob {
        provider: "circleci".to_owned(),
        repository: names.map(|(owner, name)| format!("{owner}/{name}")),
        workflow: environ.text("CIRCLE_WORKFLOW_ID"),
        job: environ.text("CIRCLE_JOB"),
        run_id: environ.text("CIRCLE_BUILD_NUM"),
        run_url: environ.text("CIRCLE_BUILD_URL"),
        git_ref: tag.or_else(|| environ.text("CIRCLE_BRANCH").map(|branch| format!("refs/heads/{branch}"))),
        commit: environ.text("CIRCLE_SHA1"),
        actor: environ.text("CIRCLE_USERNAME"),
        ..CiJob::default()
    }
}

/// <https://www.jenkins.io/doc/book/pipeline/jenkinsfile/#using-environment-variables>
fn jenkins(environ: &Environ<'_>) -> CiJob {
    CiJob {
        provider: "jenkins".to_owned(),
        repository: environ.text("GIT_URL"),
        workflow: environ.text("JOB_NAME"),
        job: environ.text("STAGE_NAME"),
        run_id: environ.text("BUILD_ID").or_else(|| environ.text("BUILD_NUMBER")),
        run_url: environ.text("BUILD_URL"),
        git_ref: environ.text("GIT_BRANCH"),
        commit: environ.text("GIT_COMMIT"),
        source_branch: environ.text("CHANGE_BRANCH"),
        merge_request: environ.line("CHANGE_TITLE"),
        actor: environ.text("BUILD_USER_ID"),
        ..CiJob::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use lockgate_model::workload::Assurance;

    fn environ(pairs: &[(&str, &str)]) -> Vec<u8> {
        pairs.iter().flat_map(|(name, value)| format!("{name}={value}\0").into_bytes()).collect()
    }

    #[test]
    fn each_provider_is_recognised_by_its_own_variables() {
        for (pairs, provider, repository, job, git_ref) in [
            (
                &[
                    ("GITHUB_ACTIONS", "true"),
                    ("GITHUB_REPOSITORY", "acme/billing"),
                    ("GITHUB_JOB", "migrate"),
                    ("GITHUB_REF", "refs/heads/main"),
                ][..],
                "github_actions",
                "acme/billing",
                "migrate",
                "refs/heads/main",
            ),
            (
                &[
                    ("GITLAB_CI", "true"),
                    ("CI_PROJECT_PATH", "acme/billing"),
                    ("CI_JOB_NAME", "migrate"),
                    ("CI_COMMIT_BRANCH", "main"),
                ],
                "gitlab",
                "acme/billing",
                "migrate",
                "refs/heads/main",
            ),
            (
                &[
                    ("BUILDKITE", "true"),
                    ("BUILDKITE_REPO", "git@x:acme/billing"),
                    ("BUILDKITE_LABEL", "migrate"),
                    ("BUILDKITE_TAG", "v1"),
                ],
                "buildkite",
                "git@x:acme/billing",
                "migrate",
                "refs/tags/v1",
            ),
            (
                &[
                    ("CIRCLECI", "true"),
                    ("CIRCLE_PROJECT_USERNAME", "acme"),
                    ("CIRCLE_PROJECT_REPONAME", "billing"),
                    ("CIRCLE_JOB", "migrate"),
                    ("CIRCLE_BRANCH", "main"),
                ],
                "circleci",
                "acme/billing",
                "migrate",
                "refs/heads/main",
            ),
            (
                &[
                    ("JENKINS_URL", "http://j/"),
                    ("GIT_URL", "https://x/acme/billing"),
                    ("STAGE_NAME", "migrate"),
                    ("GIT_BRANCH", "origin/main"),
                ],
                "jenkins",
                "https://x/acme/billing",
                "migrate",
                "origin/main",
            ),
        ] {
            let job_facts = from_environ(&environ(pairs)).expect(provider);
            assert_eq!(job_facts.provider, provider);
            assert_eq!(job_facts.assurance.0, Assurance::Claimed);
            assert_eq!(job_facts.repository.as_deref(), Some(repository));
            assert_eq!(job_facts.job.as_deref(), Some(job));
            assert_eq!(job_facts.git_ref.as_deref(), Some(git_ref));
        }
    }

    #[test]
    fn github_gives_the_workflow_file_and_the_run_url() {
        let job = from_environ(&environ(&[
            ("GITHUB_ACTIONS", "true"),
            ("GITHUB_SERVER_URL", "https://github.com"),
            ("GITHUB_REPOSITORY", "acme/billing"),
            ("GITHUB_RUN_ID", "42"),
            ("GITHUB_WORKFLOW", "Deploy"),
            ("GITHUB_WORKFLOW_REF", "acme/billing/.github/workflows/deploy.yml@refs/heads/main"),
            ("GITHUB_REF_PROTECTED", "true"),
        ]))
        .unwrap();
        assert_eq!(job.workflow.as_deref(), Some("deploy.yml"));
        assert_eq!(job.run_url.as_deref(), Some("https://github.com/acme/billing/actions/runs/42"));
        assert_eq!(job.ref_protected, Some(true));
    }

    #[test]
    fn what_a_change_says_of_itself_is_one_line() {
        for (pairs, message, branch, title) in [
            (
                &[("GITHUB_ACTIONS", "true"), ("GITHUB_HEAD_REF", "ops-42-x")][..],
                None,
                Some("ops-42-x"),
                None,
            ),
            (
                &[
                    ("GITLAB_CI", "true"),
                    ("CI_COMMIT_MESSAGE", "Drop it\n\n  Refs: OPS-42\t\r\n"),
                    ("CI_COMMIT_TITLE", "Drop it"),
                    ("CI_MERGE_REQUEST_SOURCE_BRANCH_NAME", "ops-42"),
                    ("CI_MERGE_REQUEST_TITLE", "OPS-42\u{1b}[2J"),
                ],
                Some("Drop it Refs: OPS-42"),
                Some("ops-42"),
                Some("OPS-42\u{fffd}[2J"),
            ),
            (&[("GITLAB_CI", "true"), ("CI_COMMIT_TITLE", "Drop it")], Some("Drop it"), None, None),
            (&[("BUILDKITE", "true"), ("BUILDKITE_MESSAGE", "OPS-7 go\n")], Some("OPS-7 go"), None, None),
            (
                &[("JENKINS_URL", "http://j/"), ("CHANGE_BRANCH", "b"), ("CHANGE_TITLE", "T")],
                None,
                Some("b"),
                Some("T"),
            ),
        ] {
            let job = from_environ(&environ(pairs)).unwrap();
            assert_eq!(
                (job.commit_message.as_deref(), job.source_branch.as_deref(), job.merge_request.as_deref()),
                (message, branch, title),
                "{pairs:?}"
            );
        }
    }

    #[test]
    fn values_are_bounded_and_printable_and_tokens_are_not_read() {
        let long = "x".repeat(4096);
        let content = environ(&[
            ("GITHUB_ACTIONS", "true"),
            ("GITHUB_JOB", &long),
            ("GITHUB_ACTOR", "a\x1b[2Jb"),
            ("GITHUB_TOKEN", "s"),
        ]);
        let job = from_environ(&content).unwrap();
        assert_eq!(job.job.unwrap().chars().count(), VALUE_CHARS);
        assert_eq!(job.actor.as_deref(), Some("a\u{fffd}[2Jb"));
        assert!(!is_known("GITHUB_TOKEN") && !is_known("CI_JOB_TOKEN") && !is_known("PGPASSWORD"));
    }

    #[test]
    fn an_ordinary_environment_is_no_job() {
        for content in [
            &b""[..],
            b"PATH=/bin\0HOME=/root\0",
            b"\0\0\0",
            b"GITHUB_ACTIONS\0",
            b"GITHUB_ACTIONS=false\0",
            b"\xff\xfe=1\0",
        ] {
            assert_eq!(from_environ(content), None);
        }
    }
}
