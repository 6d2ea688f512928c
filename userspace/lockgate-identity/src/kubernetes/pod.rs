//! A pod as the API server describes it, cut to what identifies: nothing else of the object is kept.

use lockgate_model::workload::{Assurance, Pod, PodAssurance};
use serde::Deserialize;
use std::collections::{BTreeMap, HashMap};

/// Labels that are kept; objects have a few, and rules name one or two.
const MAX_LABELS: usize = 64;
/// A label's key has at most 253 + 1 + 63 characters, its value 63; longer is not Kubernetes.
const MAX_LABEL_BYTES: usize = 320;
/// Bytes of an annotation that is kept; longer ones name no ticket.
const MAX_ANNOTATION_BYTES: usize = 1 << 10;
/// Containers of one pod whose images are kept.
const MAX_CONTAINERS: usize = 64;

/// What is known of one pod.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Facts {
    pub(crate) name: String,
    pub(crate) namespace: String,
    pub(crate) service_account: String,
    pub(crate) owner: Option<String>,
    pub(crate) node: String,
    pub(crate) labels: BTreeMap<String, String>,
    /// Those that configuration names.
    pub(crate) annotations: BTreeMap<String, String>,
    /// By container id.
    pub(crate) containers: HashMap<String, Running>,
}

/// One container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Running {
    pub(crate) runtime: String,
    pub(crate) image: Option<String>,
}

impl Facts {
    /// Puts the facts where the kernel's uid is.
    pub(crate) fn put_into(&self, pod: &mut Pod, container: Option<&str>) {
        let text = |text: &str| (!text.is_empty()).then(|| text.to_owned());
        pod.assurance = PodAssurance(Assurance::Platform);
        pod.name = text(&self.name);
        pod.namespace = text(&self.namespace);
        pod.service_account = text(&self.service_account);
        pod.owner.clone_from(&self.owner);
        pod.node = text(&self.node);
        pod.labels.clone_from(&self.labels);
        let running = container.and_then(|id| self.containers.get(id));
        pod.image = running.and_then(|running| running.image.clone());
        pod.unconfirmed = None;
    }
}

/// The object's own shape, as far as it is read.
#[derive(Debug, Deserialize)]
pub(super) struct Object {
    #[serde(default)]
    metadata: Metadata,
    #[serde(default)]
    spec: Spec,
    #[serde(default)]
    status: Status,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Metadata {
    uid: String,
    name: String,
    namespace: String,
    resource_version: String,
    labels: Option<BTreeMap<String, String>>,
    annotations: Option<BTreeMap<String, String>>,
    owner_references: Option<Vec<Owner>>,
}

#[derive(Debug, Deserialize)]
struct Owner {
    #[serde(default)]
    kind: String,
    #[serde(default)]
    name: String,
    #[serde(default)]
    controller: Option<bool>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Spec {
    service_account_name: String,
    node_name: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Status {
    container_statuses: Option<Vec<ContainerStatus>>,
    init_container_statuses: Option<Vec<ContainerStatus>>,
    ephemeral_container_statuses: Option<Vec<ContainerStatus>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct ContainerStatus {
    /// `containerd://<id>`
    #[serde(rename = "containerID")]
    container_id: Option<String>,
    /// `registry.example.com/app@sha256:…`
    #[serde(rename = "imageID")]
    image_id: Option<String>,
}

impl Object {
    pub(super) fn uid(&self) -> &str {
        &self.metadata.uid
    }

    pub(super) fn resource_version(&self) -> &str {
        &self.metadata.resource_version
    }

    pub(super) fn node(&self) -> &str {
        &self.spec.node_name
    }

    /// With the annotations of these names.
    pub(super) fn into_facts(self, annotations: &[String]) -> Facts {
        let Self { metadata, spec, status } = self;
        let owner =
            metadata.owner_references.into_iter().flatten().find(|owner| owner.controller == Some(true));
        let labels = metadata.labels.into_iter().flatten();
        let statuses =
            [status.container_statuses, status.init_container_statuses, status.ephemeral_container_statuses];
        Facts {
            name: metadata.name,
            namespace: metadata.namespace,
            service_account: spec.service_account_name,
            owner: owner.map(|owner| format!("{}/{}", owner.kind, owner.name)),
            node: spec.node_name,
            labels: labels
                .filter(|(key, value)| key.len() <= MAX_LABEL_BYTES && value.len() <= MAX_LABEL_BYTES)
                .take(MAX_LABELS)
                .collect(),
            annotations: metadata
                .annotations
                .into_iter()
                .flatten()
                .filter(|(key, value)| annotations.contains(key) && value.len() <= MAX_ANNOTATION_BYTES)
                .collect(),
            containers: statuses
                .into_iter()
                .flatten()
                .flatten()
                .filter_map(running)
                .take(MAX_CONTAINERS)
                .collect(),
        }
    }
}

fn running(status: ContainerStatus) -> Option<(String, Running)> {
    let reference = status.container_id?;
    let (runtime, id) = reference.split_once("://")?;
    let image = status.image_id.filter(|image| !image.is_empty());
    Some((id.to_owned(), Running { runtime: runtime.to_owned(), image }))
}
