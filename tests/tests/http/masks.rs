//! Nothing raw of a masked resource reaches the client, however it is asked for.

use crate::world::{World, parts};
use anyhow::Result;
use lockgate_tests::origin::Speaks;

#[tokio::test(flavor = "multi_thread")]
async fn answers_are_masked_by_place_and_by_content() -> Result<()> {
    let world = World::new(Speaks::One).await?;
    let masked = r#"{"id": 7, "ssn": "[redacted]", "note": "mail "#;
    for (path, flags) in
        [("/customers/7", &[][..]), ("/packed/7", &[][..]), ("/customers/7", &["--compressed"][..])]
    {
        let url = world.url(path);
        let mut arguments = vec!["-i"];
        arguments.extend(flags);
        arguments.push(&url);
        let done = world.curl(&arguments).await?;
        let (answer, status) = parts(&done);
        assert_eq!(status, "200", "{done:?}");
        assert!(answer.contains(masked) && answer.contains("************1111"), "{answer}");
        for raw in ["123-45-6789", "411111111111", "ana@example.com", "etag", "ETag", "\"raw\""] {
            assert!(!answer.contains(raw), "{path}: {raw} in {answer}");
        }
    }
    world.recorded("masked fields are counted", |event| event.contains("\"masked_fields\":3")).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_masked_is_withheld() -> Result<()> {
    let world = World::new(Speaks::One).await?;
    for (path, flags, status, words) in [
        ("/customers/7", &["-r", "10-40"][..], "403", "parts of a masked resource"),
        ("/binary", &[][..], "502", "withheld"),
        ("/events", &[][..], "502", "withheld"),
    ] {
        let url = world.url(path);
        let mut arguments = flags.to_vec();
        arguments.push(&url);
        let done = world.curl(&arguments).await?;
        assert_eq!(parts(&done).1, status, "{path} {done:?}");
        assert!(done.stdout.contains(words), "{path} {done:?}");
        assert!(!done.stdout.contains("6789") && !done.stdout.contains("ana@"), "{done:?}");
    }
    Ok(())
}
