//! Variables that have a job's programs trust the CA, and the files that they name.

use super::{Authority, BUNDLES, completed, store::program};
use anyhow::{Context as _, ensure};
use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

/// Every Java store's password unless somebody changed it; it protects nothing, a store of certificates has no secret.
const STORE_PASSWORD: &str = "changeit";

/// Files, and the variables that name them.
#[derive(Debug)]
pub(crate) struct Environment {
    /// In the order in which they are shown.
    pub(crate) variables: Vec<(&'static str, String)>,
    /// Java programs are left out because of this.
    pub(crate) without_java: Option<String>,
}

impl Environment {
    /// Writes the files into a directory, which is made when it is not there.
    pub(crate) fn write(directory: &Path, authorities: &[Authority]) -> anyhow::Result<Self> {
        fs::create_dir_all(directory).with_context(|| directory.display().to_string())?;
        let own: String = authorities.iter().map(Authority::pem).collect();
        let host = BUNDLES.iter().find_map(|path| fs::read(path).ok()).unwrap_or_default();
        let whole = completed(&host, authorities).unwrap_or(host);
        let bundle = written(directory, "bundle.pem", &whole)?;
        let ca = written(directory, "ca.pem", own.as_bytes())?;
        let mut variables = vec![
            // OpenSSL (Ruby, Perl, Python's ssl), Go, and rustls' native certificates
            ("SSL_CERT_FILE", bundle.clone()),
            ("CURL_CA_BUNDLE", bundle.clone()),
            ("GIT_SSL_CAINFO", bundle.clone()),
            // Python's requests, pip, and AWS's tools bring certificates of their own
            ("REQUESTS_CA_BUNDLE", bundle.clone()),
            ("PIP_CERT", bundle.clone()),
            ("AWS_CA_BUNDLE", bundle.clone()),
            ("CARGO_HTTP_CAINFO", bundle),
            // Node adds to its own list
            ("NODE_EXTRA_CA_CERTS", ca),
        ];
        let without_java = match java(directory, authorities) {
            Ok(options) => {
                variables.push(("JAVA_TOOL_OPTIONS", options));
                None
            }
            Err(error) => Some(format!("{error:#}")),
        };
        Ok(Self { variables, without_java })
    }
}

fn written(directory: &Path, name: &str, content: &[u8]) -> anyhow::Result<String> {
    use std::os::unix::fs::PermissionsExt as _;
    let path = directory.join(name);
    // Whoever has it open goes on with the old one.
    let partial = directory.join(format!(".{name}.partial"));
    fs::write(&partial, content).with_context(|| partial.display().to_string())?;
    fs::set_permissions(&partial, fs::Permissions::from_mode(0o644))?;
    fs::rename(&partial, &path).with_context(|| path.display().to_string())?;
    let text = path.into_os_string().into_string();
    text.map_err(|path| anyhow::anyhow!("{}: a path in UTF-8 is needed", path.display()))
}

/// Java's own store with the CA added, by Java's own tool.
fn java(directory: &Path, authorities: &[Authority]) -> anyhow::Result<String> {
    let keytool = program("keytool").context("no keytool in PATH")?;
    let store = java_store(&keytool).context("keytool's Java has no lib/security/cacerts")?;
    let (partial, path) = (directory.join(".truststore.partial"), directory.join("truststore"));
    fs::copy(&store, &partial).with_context(|| store.display().to_string())?;
    for authority in authorities {
        let file = directory.join(".authority.pem");
        fs::write(&file, authority.pem()).with_context(|| file.display().to_string())?;
        let done = Command::new(&keytool)
            .args(["-importcert", "-noprompt", "-storepass", STORE_PASSWORD])
            .args(["-alias", &authority.file_stem()])
            .arg("-keystore")
            .arg(&partial)
            .arg("-file")
            .arg(&file)
            .output();
        fs::remove_file(&file)?;
        let done = done.with_context(|| keytool.display().to_string())?;
        let said = String::from_utf8_lossy(&done.stdout).into_owned();
        ensure!(done.status.success() || said.contains("already exists"), "keytool: {}", said.trim());
    }
    fs::rename(&partial, &path)?;
    let path = path.display();
    ensure!(
        !path.to_string().contains([' ', '"', '\'']),
        "{path}: Java takes no path with a space or quote there"
    );
    Ok(format!("-Djavax.net.ssl.trustStore={path} -Djavax.net.ssl.trustStorePassword={STORE_PASSWORD}"))
}

/// Beside the Java that the tool belongs to, or in `JAVA_HOME`.
fn java_store(keytool: &Path) -> Option<PathBuf> {
    let real = fs::canonicalize(keytool).ok()?;
    let homes = std::env::var_os("JAVA_HOME")
        .map(PathBuf::from)
        .into_iter()
        .chain(real.ancestors().nth(2).map(Path::to_owned));
    let mut stores = homes
        .flat_map(|home| ["lib/security/cacerts", "jre/lib/security/cacerts"].map(|store| home.join(store)));
    stores.find(|store| store.is_file())
}
