use super::*;
use crate::{
    notify::retry::Answer,
    testing::{Script, Stage},
};
use lockgate_model::{Timestamp, port::Recorder};
use serde_json::{Value, json};

fn gap(stage: &str, count: Option<u64>, detail: &str) -> Event {
    let kind = EventKind::Gap { stage: stage.to_owned(), count, detail: detail.to_owned() };
    Event { at: Timestamp::from_second(1_800_000_000).unwrap(), session: None, kind }
}

fn stage() -> (Stage, Script, Arc<dyn Recorder>) {
    let script = Script::always(Duration::ZERO, Answer::Status { code: 204, retry_after: None });
    let stage = Stage::scripted(vec![("approvals", script.clone())]);
    let heard = stage.control.alarms(stage.log.clone());
    (stage, script, heard)
}

fn told(script: &Script) -> Vec<Value> {
    script.sent.lock().iter().map(|(_, _, body)| serde_json::from_slice(body).unwrap()).collect()
}

async fn seconds(seconds: u64) {
    tokio::time::sleep(Duration::from_secs(seconds)).await;
}

#[tokio::test(start_paused = true)]
async fn the_first_is_told_at_once_and_the_rest_together() {
    let (stage, script, heard) = stage();
    heard.submit(vec![gap("bypass", Some(1), "process 7 held a connection")]);
    seconds(1).await;
    let first = told(&script).remove(0);
    assert_eq!(first["type"], json!("lockgate.bypass.detected"));
    assert_eq!(first["data"]["detail"], json!("process 7 held a connection"));
    assert_eq!((&first["data"]["node"], &first["data"]["count"]), (&json!("build-7"), &json!(1)));
    for number in 0..10_000 {
        heard.submit(vec![gap("bypass", Some(2), &format!("process {}", number % 7))]);
    }
    seconds(28).await;
    assert_eq!(told(&script).len(), 1, "ten thousand more wait for the window's end");
    seconds(2).await;
    let rest = told(&script).remove(1);
    assert_eq!(rest["data"]["count"], json!(20_000));
    let detail = rest["data"]["detail"].as_str().unwrap();
    assert!(detail.starts_with("10000 more: process 0; process 1;") && detail.len() < 200, "{detail}");
    seconds(3_600).await;
    assert_eq!(told(&script).len(), 2, "quiet again");
    heard.submit(vec![gap("bypass", Some(1), "again")]);
    seconds(1).await;
    assert_eq!(told(&script)[2]["data"]["detail"], json!("again"), "and at once again");
    let recorded = stage.log.pick(|kind| matches!(kind, EventKind::Gap { .. }).then_some(()));
    assert_eq!(recorded.len(), 10_002, "each is recorded by itself");
}

#[tokio::test(start_paused = true)]
async fn one_kind_does_not_bury_another() {
    let (_stage, script, heard) = stage();
    for _ in 0..1_000 {
        heard.submit(vec![gap("kernel_events", Some(9), "reports of refusals in the kernel were lost")]);
    }
    heard.submit(vec![gap("hook_lost", None, "lg_connect4 was taken away")]);
    seconds(1).await;
    let told = told(&script);
    let stages: Vec<&Value> = told.iter().map(|event| &event["data"]["stage"]).collect();
    assert_eq!(stages, [&json!("kernel_events"), &json!("hook_lost")]);
    assert!(told.iter().all(|event| event["type"] == "lockgate.session.gap"));
}

#[tokio::test(start_paused = true)]
async fn a_storm_that_goes_on_is_one_message_a_window() {
    let (_stage, script, heard) = stage();
    for _ in 0..600 {
        heard.submit(vec![gap("kernel_events", Some(1), "lost")]);
        seconds(1).await;
    }
    seconds(60).await;
    let messages = told(&script).len();
    assert!((19..=22).contains(&messages), "{messages} in ten minutes");
    let counted: u64 = told(&script).iter().filter_map(|event| event["data"]["count"].as_u64()).sum();
    assert_eq!(counted, 600, "none is forgotten");
}

#[tokio::test(start_paused = true)]
async fn what_is_gathered_is_told_before_the_end_and_stages_are_bounded() {
    let (stage, script, heard) = stage();
    for number in 0..100 {
        heard.submit(vec![gap(&format!("stage-{number}"), None, "x")]);
    }
    seconds(1).await;
    assert_eq!(told(&script).len(), KINDS_MAX + 1, "kinds beyond the bound share one");
    heard.submit(vec![gap("stage-1", None, "just before the end")]);
    stage.control.stop(Duration::from_secs(3)).await;
    let last = told(&script);
    assert!(last.iter().any(|event| event["data"]["detail"] == "just before the end"), "{last:#?}");
}

#[tokio::test(start_paused = true)]
async fn what_became_of_an_alarm_is_recorded_and_told_to_nobody() {
    let script = Script::always(Duration::ZERO, Answer::Failed("connection refused".into()));
    let stage = Stage::scripted(vec![("approvals", script.clone())]);
    let heard = stage.control.alarms(stage.log.clone());
    heard.submit(vec![gap("hook_lost", None, "lg_connect4 was taken away")]);
    seconds(24 * 3_600).await;
    let tried = stage.log.pick(|kind| match kind {
        EventKind::Alerted { about, channel, attempt, error, .. } => {
            Some((about.clone(), channel.clone(), *attempt, error.clone()))
        }
        _ => None,
    });
    assert_eq!(tried.len(), 4, "the schedule of what nobody waits for: {tried:?}");
    let one = |attempt| {
        let error = Some("connection refused".to_owned());
        ("alarm:hook_lost".to_owned(), "webhook:approvals".to_owned(), attempt, error)
    };
    assert_eq!(tried, (1..=4).map(one).collect::<Vec<_>>());
    assert_eq!(script.sent.lock().len(), 4);
}
