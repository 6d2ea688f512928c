//! Container images without a container engine: a directory becomes one layer in an OCI layout, in one archive that
//! `ctr images import`, `podman load`, `skopeo` and `docker load` take.
//!
//! The same files give the same bytes: names sorted, owners root, times at the epoch.

use crate::shell;
use anyhow::{Context, Result, bail};
use serde_json::{Value, json};
use std::{
    collections::BTreeSet,
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::Command,
};

/// What an image says beside its files.
pub(crate) struct Image<'a> {
    /// `NAME:TAG`, as manifests name it.
    pub(crate) name: &'a str,
    pub(crate) entrypoint: &'a [&'a str],
    pub(crate) environment: &'a [&'a str],
}

/// Everything below `root` as one layer; the archive goes to `archive`.
pub(crate) fn write(image: &Image<'_>, root: &Path, archive: &Path) -> Result<()> {
    let layout = archive.with_extension("layout");
    let _ = fs::remove_dir_all(&layout);
    let blobs = layout.join("blobs/sha256");
    fs::create_dir_all(&blobs)?;
    let layer = layout.join("layer.tar");
    pack(root, ".", &layer)?;
    let (layer, size) = keep(&blobs, &layer)?;
    let config = json!({
        "architecture": "amd64",
        "os": "linux",
        "created": "1970-01-01T00:00:00Z",
        "config": { "Entrypoint": image.entrypoint, "Env": image.environment, "WorkingDir": "/" },
        "rootfs": { "type": "layers", "diff_ids": [format!("sha256:{layer}")] },
        "history": [{ "created": "1970-01-01T00:00:00Z", "created_by": "cargo xtask image" }],
    });
    let (config, config_size) = keep_json(&layout, &blobs, &config)?;
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": { "mediaType": "application/vnd.oci.image.config.v1+json", "digest": format!("sha256:{config}"), "size": config_size },
        "layers": [{ "mediaType": "application/vnd.oci.image.layer.v1.tar", "digest": format!("sha256:{layer}"), "size": size }],
    });
    let (manifest, manifest_size) = keep_json(&layout, &blobs, &manifest)?;
    let tag = image.name.rsplit(':').next().unwrap_or("latest");
    let index = json!({
        "schemaVersion": 2,
        "manifests": [{
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "digest": format!("sha256:{manifest}"),
            "size": manifest_size,
            "platform": { "architecture": "amd64", "os": "linux" },
            // containerd goes by the first, others by the second.
            "annotations": { "io.containerd.image.name": full_name(image.name), "org.opencontainers.image.ref.name": tag },
        }],
    });
    fs::write(layout.join("index.json"), index.to_string())?;
    fs::write(layout.join("oci-layout"), json!({ "imageLayoutVersion": "1.0.0" }).to_string())?;
    // For engines that know docker's archives only.
    let docker = json!([{
        "Config": format!("blobs/sha256/{config}"), "RepoTags": [image.name], "Layers": [format!("blobs/sha256/{layer}")],
    }]);
    fs::write(layout.join("manifest.json"), docker.to_string())?;
    pack(&layout, ".", archive)?;
    fs::remove_dir_all(&layout)?;
    Ok(())
}

/// Copies programs to where they are on this machine, with the libraries that the loader would find for them.
pub(crate) fn add_programs(root: &Path, programs: &[(&Path, &str)]) -> Result<()> {
    let mut libraries = BTreeSet::new();
    for (program, at) in programs {
        add_file(root, program, at, 0o755)?;
        libraries.extend(libraries_of(program)?);
    }
    for library in libraries {
        let at = library.display().to_string();
        add_file(root, &library, &at, 0o755)?;
    }
    Ok(())
}

/// A file, at this path of the image.
pub(crate) fn add_file(root: &Path, from: &Path, at: &str, mode: u32) -> Result<()> {
    let to = place(root, at)?;
    fs::copy(from, &to).with_context(|| format!("copy {}", from.display()))?;
    fs::set_permissions(to, fs::Permissions::from_mode(mode))?;
    Ok(())
}

/// Text, at this path of the image.
pub(crate) fn add_text(root: &Path, at: &str, text: &str) -> Result<()> {
    let to = place(root, at)?;
    fs::write(&to, text)?;
    fs::set_permissions(to, fs::Permissions::from_mode(0o644))?;
    Ok(())
}

/// The sum that names a blob.
pub(crate) fn sha256(file: &Path) -> Result<String> {
    let line = shell::output(Command::new("sha256sum").arg(file))?;
    line.split_whitespace().next().map(str::to_owned).context("sha256sum says nothing")
}

/// The sum of these bytes.
pub(crate) fn sha256_of(bytes: &[u8]) -> Result<String> {
    use std::{io::Write as _, process::Stdio};
    let mut child = Command::new("sha256sum")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .context("sha256sum")?;
    child.stdin.take().context("its standard input")?.write_all(bytes)?;
    let output = child.wait_with_output()?;
    let line = String::from_utf8_lossy(&output.stdout).into_owned();
    line.split_whitespace().next().map(str::to_owned).context("sha256sum says nothing")
}

/// `name:tag` as container runtimes complete it.
fn full_name(name: &str) -> String {
    match name.split_once('/') {
        Some((first, _)) if first.contains(['.', ':']) || first == "localhost" => name.to_owned(),
        Some(_) => format!("docker.io/{name}"),
        None => format!("docker.io/library/{name}"),
    }
}

fn place(root: &Path, at: &str) -> Result<PathBuf> {
    let to = root.join(at.trim_start_matches('/'));
    let parent = to.parent().context("a path below the root")?;
    fs::create_dir_all(parent)?;
    Ok(to)
}

/// What ldd(1) finds: `NAME => /path (0x…)`, and the loader itself as `/path (0x…)`.
fn libraries_of(program: &Path) -> Result<Vec<PathBuf>> {
    let output = Command::new("ldd").arg(program).env("LC_ALL", "C").output().context("ldd")?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    if text.contains("not a dynamic executable") || !output.status.success() {
        return Ok(Vec::new());
    }
    if let Some(missing) = text.lines().find(|line| line.contains("not found")) {
        bail!("{}: {}", program.display(), missing.trim());
    }
    Ok(named_libraries(&text))
}

fn named_libraries(text: &str) -> Vec<PathBuf> {
    let paths = text.lines().filter_map(|line| {
        let path = line.split_once("=>").map_or(line, |(_, path)| path).trim();
        path.split_once(" (").map(|(path, _)| path).filter(|path| path.starts_with('/'))
    });
    paths.map(PathBuf::from).collect()
}

fn pack(directory: &Path, what: &str, archive: &Path) -> Result<()> {
    shell::run(
        Command::new("tar")
            .args(["--create", "--sort=name", "--mtime=@0", "--owner=0", "--group=0", "--numeric-owner"])
            .args(["--format=gnu", "--exclude=./layer.tar", "--file"])
            .arg(archive)
            .arg("--directory")
            .arg(directory)
            .arg(what),
    )
}

/// Moves a file among the blobs: its sum and its size.
fn keep(blobs: &Path, file: &Path) -> Result<(String, u64)> {
    let (sum, size) = (sha256(file)?, fs::metadata(file)?.len());
    fs::rename(file, blobs.join(&sum))?;
    Ok((sum, size))
}

fn keep_json(layout: &Path, blobs: &Path, value: &Value) -> Result<(String, u64)> {
    let file = layout.join("blob.json");
    fs::write(&file, value.to_string())?;
    keep(blobs, &file)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_completed_as_runtimes_do() {
        for (name, full) in [
            ("lockgate:1", "docker.io/library/lockgate:1"),
            ("acme/lockgate:1", "docker.io/acme/lockgate:1"),
            ("registry.acme.example/lockgate:1", "registry.acme.example/lockgate:1"),
            ("localhost/job:1", "localhost/job:1"),
        ] {
            assert_eq!(full_name(name), full);
        }
    }

    #[test]
    fn libraries_and_the_loader_are_read_off_ldd() {
        let text = "\tlinux-vdso.so.1 (0x00007f8efe394000)\n\tlibm.so.6 => /lib/x86_64-linux-gnu/libm.so.6 (0x00007f8ef9b20000)\n\
                    \t/lib64/ld-linux-x86-64.so.2 (0x00007f8efe396000)\n";
        let expected = ["/lib/x86_64-linux-gnu/libm.so.6", "/lib64/ld-linux-x86-64.so.2"];
        assert_eq!(named_libraries(text), expected.map(PathBuf::from));
    }
}
