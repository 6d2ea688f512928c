//! A bucket in an S3 that keeps what object lock says: SeaweedFS, as `cargo xtask setup` installed it, and what its owner
//! does there with Amazon's own client.

use crate::{
    installed::installed,
    scratch::{Scratch, free_port},
};
use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use std::{
    fs,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

/// Its keys.
pub const ACCESS_KEY: &str = "an-access-key";
/// Its keys.
pub const SECRET_KEY: &str = "a-secret-key";
/// The bucket's name.
pub const BUCKET: &str = "evidence";

/// A start takes two seconds on a quiet machine.
const READY_WITHIN: Duration = Duration::from_secs(90);

const IDENTITIES: &str = r#"{"identities": [{"name": "evidence", "credentials": [{"accessKey": "an-access-key",
"secretKey": "a-secret-key"}], "actions": ["Admin", "Read", "Write", "List", "Tagging"]}]}"#;

/// What every script begins with: `s`, a client, and `json`.
const CLIENT: &str = "
import boto3, botocore, sys, hashlib, json, datetime, base64
s = boto3.client('s3', endpoint_url=sys.argv[1], aws_access_key_id='an-access-key', aws_secret_access_key='a-secret-key',
    region_name='us-east-1', config=botocore.config.Config(retries={'max_attempts': 0}))
def refused(call):
    try:
        call()
    except botocore.exceptions.ClientError as error:
        return error.response['Error']['Code']
    return None
";

/// The service; ended with the value.
pub struct BucketServer {
    child: Child,
    endpoint: String,
    _scratch: Scratch,
}

impl Drop for BucketServer {
    fn drop(&mut self) {
        // It takes a minute to end in order, and nothing of it is kept.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl BucketServer {
    /// Starts it on a port, without any bucket, and waits until it answers.
    pub async fn start(port: u16) -> Result<Self> {
        let scratch = Scratch::new("bucket")?;
        let identities = scratch.write("identities.json", IDENTITIES)?;
        let log = fs::File::create(scratch.path().join("log"))?;
        let data = scratch.path().join("data");
        fs::create_dir_all(&data)?;
        let mut command = Command::new(installed("sinks/bin/weed")?);
        command
            .args([
                "server",
                "-s3",
                "-filer",
                "-ip=127.0.0.1",
                "-ip.bind=127.0.0.1",
                "-master.telemetry=false",
            ])
            .args(["-s3.port.iceberg=0", "-s3.port.lance=0", "-s3.iam=false", "-volume.max=20"])
            .args(["-master.volumeSizeLimitMB=64", &format!("-s3.port={port}")])
            .arg(format!("-dir={}", data.display()))
            .arg(format!("-s3.config={}", identities.display()));
        for part in ["s3.port.grpc", "master.port", "master.port.grpc", "filer.port", "filer.port.grpc"] {
            command.arg(format!("-{part}={}", free_port()?));
        }
        for part in ["volume.port", "volume.port.grpc"] {
            command.arg(format!("-{part}={}", free_port()?));
        }
        let child = command
            .current_dir(scratch.path())
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .context("weed")?;
        let mut server = Self { child, endpoint: format!("http://127.0.0.1:{port}"), _scratch: scratch };
        let end = Instant::now() + READY_WITHIN;
        while server.python("s.list_buckets()", &[]).is_err() {
            let ended = server.child.try_wait()?;
            let log = || fs::read_to_string(server._scratch.path().join("log")).unwrap_or_default();
            ensure!(ended.is_none() && Instant::now() < end, "no S3 on port {port}: {ended:?}\n{}", log());
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        Ok(server)
    }

    /// Runs a script as the bucket's owner, with [`CLIENT`] before it; what it prints.
    pub fn python(&self, script: &str, arguments: &[&str]) -> Result<String> {
        let output = Command::new(installed("sinks/bin/python")?)
            .arg("-c")
            .arg(format!("{CLIENT}{script}"))
            .arg(&self.endpoint)
            .args(arguments)
            .output()?;
        ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        Ok(String::from_utf8(output.stdout)?)
    }

    /// A bucket that keeps nothing.
    pub fn make_without_lock(&self) -> Result<()> {
        self.python("s.create_bucket(Bucket='evidence')", &[]).map(drop)
    }

    /// Takes the bucket away; it must be empty.
    pub fn remove(&self) -> Result<()> {
        self.python("s.delete_bucket(Bucket='evidence')", &[]).map(drop)
    }

    /// A bucket that keeps everything for 400 days, whoever asks.
    pub fn make_with_lock(&self) -> Result<()> {
        const MAKE: &str = "
s.create_bucket(Bucket='evidence', ObjectLockEnabledForBucket=True)
s.put_object_lock_configuration(Bucket='evidence', ObjectLockConfiguration={'ObjectLockEnabled': 'Enabled',
    'Rule': {'DefaultRetention': {'Mode': 'COMPLIANCE', 'Days': 400}}})
";
        self.python(MAKE, &[]).map(drop)
    }

    /// Every version of every object: name, version, hash, the checksum that it came with, how long it stays.
    pub fn versions(&self) -> Result<Vec<Value>> {
        const LOOK: &str = "
found = []
for v in s.list_object_versions(Bucket='evidence').get('Versions', []):
    which = {'Bucket': 'evidence', 'Key': v['Key'], 'VersionId': v['VersionId']}
    got = s.get_object(ChecksumMode='ENABLED', **which)
    body = got['Body'].read()
    retention = s.get_object_retention(**which)['Retention'] if len(sys.argv) > 2 else {}
    found.append({'name': v['Key'], 'version': v['VersionId'], 'sha256': hashlib.sha256(body).hexdigest(),
        'bytes': len(body), 'etag': got['ETag'], 'checksum': base64.b64decode(got.get('ChecksumSHA256', '').split('-')[0]).hex(),
        'mode': retention.get('Mode'), 'days': (retention['RetainUntilDate'] - datetime.datetime.now(datetime.timezone.utc)).days
            if retention else None})
print(json.dumps(found))
";
        Ok(serde_json::from_str(&self.python(LOOK, &["retention"])?)?)
    }

    /// What the service answers to whoever tries to be rid of a version, with the owner's own keys: codes, one an attempt.
    pub fn attack(&self, name: &str, version: &str) -> Result<Vec<Option<String>>> {
        const ATTACK: &str = "
which = {'Bucket': 'evidence', 'Key': sys.argv[2], 'VersionId': sys.argv[3]}
soon = datetime.datetime.now(datetime.timezone.utc) + datetime.timedelta(minutes=1)
print(json.dumps([
    refused(lambda: s.delete_object(**which)),
    refused(lambda: s.delete_object(BypassGovernanceRetention=True, **which)),
    refused(lambda: s.put_object_retention(Retention={'Mode': 'COMPLIANCE', 'RetainUntilDate': soon}, **which)),
    refused(lambda: s.put_object_retention(Retention={'Mode': 'GOVERNANCE', 'RetainUntilDate': soon},
        BypassGovernanceRetention=True, **which)),
]))
# What is allowed is to write another version over it, and to hide it; neither takes it away.
s.put_object(Bucket='evidence', Key=sys.argv[2], Body=b'nothing happened')
s.delete_object(Bucket='evidence', Key=sys.argv[2])
";
        Ok(serde_json::from_str(&self.python(ATTACK, &[name, version])?)?)
    }

    /// The bytes of a version.
    pub fn fetch(&self, name: &str, version: &str, into: &std::path::Path) -> Result<()> {
        const FETCH: &str = "
open(sys.argv[4], 'wb').write(s.get_object(Bucket='evidence', Key=sys.argv[2], VersionId=sys.argv[3])['Body'].read())
";
        self.python(FETCH, &[name, version, &into.display().to_string()]).map(drop)
    }
}
