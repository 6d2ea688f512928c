//! Change tickets: what branch, commit message, merge request or annotation name by a configured pattern.
//!
//! A label for people. A ticket is as sure as what names it: the environment's own words stay `claimed`, also beside a
//! confirmed job, and are left out where the provider has said otherwise of the same thing. That the ticket is about this
//! change nobody vouches for, so no rule can ask for one.

use crate::{SetUpError, TicketRule};
use lockgate_model::workload::{Assurance, CiJob, Ticket, TicketSource, Workload};
use regex::{Regex, RegexBuilder};
use std::collections::BTreeMap;

/// Tickets of one workload.
const TICKETS_MAX: usize = 8;
/// Bytes of one; longer is no ticket.
const ID_MAX: usize = 64;
/// Bytes of a compiled pattern.
const PATTERN_SIZE: usize = 1 << 20;
/// What a URL template must hold.
const PLACE: &str = "{ticket}";

/// Annotations of a pod that configuration names.
pub(crate) type Annotations = BTreeMap<String, String>;

/// The configured patterns, ready.
#[derive(Debug, Default)]
pub(crate) struct Tickets(Vec<Compiled>);

#[derive(Debug)]
struct Compiled {
    pattern: Regex,
    rule: TicketRule,
}

impl Tickets {
    pub(crate) fn compile(rules: &[TicketRule]) -> Result<Self, SetUpError> {
        let compiled = rules.iter().map(|rule| {
            let pattern = RegexBuilder::new(&rule.pattern).size_limit(PATTERN_SIZE).build();
            let pattern =
                pattern.map_err(|error| SetUpError::Ticket(rule.pattern.clone(), error.to_string()))?;
            if rule.pattern.is_empty() {
                return Err(SetUpError::Ticket(String::new(), "the pattern is empty".to_owned()));
            }
            if rule.url.as_ref().is_some_and(|url| !url.contains(PLACE)) {
                return Err(SetUpError::Ticket(rule.pattern.clone(), format!("its url lacks {PLACE}")));
            }
            Ok(Compiled { pattern, rule: rule.clone() })
        });
        compiled.collect::<Result<_, _>>().map(Self)
    }

    /// The annotations that are looked at.
    pub(crate) fn annotations(&self) -> Vec<String> {
        self.0.iter().filter_map(|compiled| compiled.rule.annotation.clone()).collect()
    }

    /// What a workload's surroundings name: `claimed` is the job as its environment has it, `ci` as it is now.
    pub(crate) fn of(
        &self,
        claimed: Option<&CiJob>,
        workload: &Workload,
        annotations: &Annotations,
    ) -> Vec<Ticket> {
        let mut found = Vec::new();
        if self.0.is_empty() {
            return found;
        }
        let confirmed = workload.ci.as_ref().filter(|job| job.is_confirmed());
        for source in [TicketSource::MergeRequest, TicketSource::Branch, TicketSource::CommitMessage] {
            let vouched = confirmed.map(|job| texts(job, source)).filter(|texts| !texts.is_empty());
            // What somebody who knows has said of it, replaces what the job says.
            let (texts, assurance) = match (vouched, confirmed) {
                (Some(texts), Some(job)) => (texts, job.assurance.0),
                _ => (claimed.map(|job| texts(job, source)).unwrap_or_default(), Assurance::Claimed),
            };
            texts.into_iter().for_each(|text| self.search(text, source, assurance, None, &mut found));
        }
        for (name, text) in annotations {
            // Whoever may patch the pod may write it.
            self.search(text, TicketSource::Annotation, Assurance::Claimed, Some(name), &mut found);
        }
        found
    }

    fn search(
        &self,
        text: &str,
        source: TicketSource,
        assurance: Assurance,
        annotation: Option<&str>,
        found: &mut Vec<Ticket>,
    ) {
        for Compiled { pattern, rule } in &self.0 {
            let looks_there = match source {
                TicketSource::Annotation => rule.annotation.as_deref() == annotation,
                TicketSource::Branch | TicketSource::CommitMessage | TicketSource::MergeRequest => {
                    rule.from.is_empty() || rule.from.contains(&source)
                }
            };
            if !looks_there {
                continue;
            }
            for hit in pattern.captures_iter(text) {
                let Some(id) = hit.get(1).or_else(|| hit.get(0)) else { continue };
                let id = id.as_str().trim();
                let known = found.iter().any(|ticket| ticket.id == id && ticket.source == source);
                if id.is_empty() || id.len() > ID_MAX || known || id.chars().any(char::is_control) {
                    continue;
                }
                if found.len() >= TICKETS_MAX {
                    return;
                }
                let url = rule.url.as_ref().map(|url| url.replace(PLACE, &encoded(id)));
                found.push(Ticket { id: id.to_owned(), url, source, assurance });
            }
        }
    }
}

fn texts(job: &CiJob, source: TicketSource) -> Vec<&str> {
    let of = match source {
        TicketSource::Branch => [job.source_branch.as_deref(), job.git_ref.as_deref()],
        TicketSource::CommitMessage => [job.commit_message.as_deref(), None],
        TicketSource::MergeRequest => [job.merge_request.as_deref(), None],
        TicketSource::Annotation => [None, None],
    };
    of.into_iter().flatten().collect()
}

/// RFC 3986's unreserved characters stay: a ticket's text cannot leave its place in the URL.
fn encoded(id: &str) -> String {
    id.bytes()
        .map(|byte| match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => {
                char::from(byte).to_string()
            }
            other => format!("%{other:02X}"),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::plain;
    use lockgate_model::workload::CiAssurance;

    fn rule(pattern: &str, url: Option<&str>) -> TicketRule {
        TicketRule { pattern: pattern.to_owned(), url: url.map(str::to_owned), ..TicketRule::default() }
    }

    fn job(assurance: Assurance, message: Option<&str>, branch: Option<&str>) -> CiJob {
        CiJob {
            assurance: CiAssurance(assurance),
            commit_message: message.map(str::to_owned),
            git_ref: branch.map(str::to_owned),
            ..CiJob::default()
        }
    }

    fn shown(tickets: &[Ticket]) -> Vec<(&str, TicketSource, Assurance)> {
        tickets.iter().map(|ticket| (ticket.id.as_str(), ticket.source, ticket.assurance)).collect()
    }

    #[test]
    fn tickets_are_found_where_they_are_named_and_as_sure_as_that() {
        use {Assurance::*, TicketSource::*};
        let tickets = Tickets::compile(&[rule(r"\b[A-Z]{2,10}-\d+\b", None)]).unwrap();
        for (claimed, now, expected) in [
            (None, None, &[][..]),
            (
                Some(job(Claimed, Some("OPS-1, OPS-2 and OPS-1"), Some("refs/heads/OPS-3-x"))),
                None,
                &[
                    ("OPS-3", Branch, Claimed),
                    ("OPS-1", CommitMessage, Claimed),
                    ("OPS-2", CommitMessage, Claimed),
                ],
            ),
            // The provider knows the branch and nothing of the message: each is as sure as who says it.
            (
                Some(job(Claimed, Some("OPS-1"), Some("refs/heads/OPS-666"))),
                Some(job(Attested, None, Some("refs/heads/OPS-3"))),
                &[("OPS-3", Branch, Attested), ("OPS-1", CommitMessage, Claimed)],
            ),
            // It knows the message: what the job says of it does not count.
            (Some(job(Claimed, Some("OPS-666"), None)), Some(job(Platform, Some("nothing"), None)), &[]),
            (Some(job(Claimed, Some("xOPS-1 ops-2 OPS-"), None)), None, &[]),
        ] {
            let workload = Workload { ci: now.or_else(|| claimed.clone()), ..plain(1) };
            let found = tickets.of(claimed.as_ref(), &workload, &Annotations::new());
            assert_eq!(shown(&found), expected, "{claimed:?}");
        }
    }

    #[test]
    fn a_hostile_message_makes_neither_many_nor_a_link_elsewhere() {
        let url = Some("https://tickets.example.com/browse/{ticket}?from=lockgate");
        let tickets = Tickets::compile(&[rule(r"ref:(.+?);", url)]).unwrap();
        let claimed = job(Assurance::Claimed, Some("ref:../../evil?x=#@evil.example/<script>;"), None);
        let workload = Workload { ci: Some(claimed.clone()), ..plain(1) };
        let found = tickets.of(Some(&claimed), &workload, &Annotations::new());
        assert_eq!(found[0].id, "../../evil?x=#@evil.example/<script>", "the first group, as it is");
        assert_eq!(
            found[0].url.as_deref(),
            Some(
                "https://tickets.example.com/browse/..%2F..%2Fevil%3Fx%3D%23%40evil.example%2F%3Cscript%3E?from=lockgate"
            )
        );
        let many: String = (0..1_000).map(|number| format!("ref:{number};")).collect();
        let long = format!("ref:{};", "x".repeat(ID_MAX + 1));
        for (text, count) in [(many, TICKETS_MAX), (long, 0), ("ref: ;ref:\u{1b}[2J;".to_owned(), 0)] {
            let claimed = job(Assurance::Claimed, Some(&text), None);
            let workload = Workload { ci: Some(claimed.clone()), ..plain(1) };
            assert_eq!(tickets.of(Some(&claimed), &workload, &Annotations::new()).len(), count);
        }
    }

    #[test]
    fn a_rule_looks_where_it_is_told_to() {
        let rules = [
            TicketRule { from: vec![TicketSource::Branch], ..rule(r"OPS-\d+", None) },
            TicketRule { annotation: Some("example.com/ticket".to_owned()), ..rule(r"CHG\d+", None) },
        ];
        let tickets = Tickets::compile(&rules).unwrap();
        assert_eq!(tickets.annotations(), ["example.com/ticket"]);
        let claimed = job(Assurance::Claimed, Some("OPS-1 CHG2"), Some("OPS-3"));
        let workload = Workload { ci: Some(claimed.clone()), ..plain(1) };
        let notes = [("example.com/ticket", "CHG9 OPS-9"), ("example.com/other", "CHG8")]
            .map(|(a, b)| (a.to_owned(), b.to_owned()));
        let found = tickets.of(Some(&claimed), &workload, &notes.into());
        use TicketSource::{Annotation, Branch, CommitMessage};
        let claimed = |id, source| (id, source, Assurance::Claimed);
        assert_eq!(
            shown(&found),
            [claimed("OPS-3", Branch), claimed("CHG2", CommitMessage), claimed("CHG9", Annotation)]
        );
    }

    #[test]
    fn patterns_and_addresses_that_cannot_work_are_refused() {
        for (pattern, url, word) in [
            ("", None, "empty"),
            ("[", None, "["),
            ("x{1000}{1000}{1000}", None, "size"),
            ("x", Some("https://tickets.example.com/"), "{ticket}"),
        ] {
            let error = Tickets::compile(&[rule(pattern, url)]).unwrap_err().to_string();
            assert!(error.contains(word) && error.contains("identity.tickets"), "{error}");
        }
    }
}
