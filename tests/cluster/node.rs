//! One machine's Kubernetes: etcd, API server, controllers, scheduler, containerd, kubelet, kube-proxy and a name server.
//!
//! The process is in network and mount namespaces of its own (`unshare --net --mount`), so bridges, rules and mounts go
//! with it. Processes and cgroups would not: all that is started here lives in one cgroup, pods live below `/kubepods`, and
//! both are emptied at the end, also at the next start when this one was killed.

use anyhow::{Context as _, Result, bail, ensure};
use lockgate_tests::{
    agent::{cgroup_mount, remove_cgroup},
    namespace::is_apart,
    scratch::Scratch,
};
use serde_json::{Value, json};
use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

/// Where the servers of the cluster live; not below /lockgate, which is the agent's.
const OWN_CGROUP: &str = "/lockgate-cluster-test";
/// Where the kubelet puts pods (cgroup driver `cgroupfs`).
const PODS: &str = "/kubepods";
/// The node's address, and those of the database: the first is a plain one, the others stand behind services.
pub(crate) const NODE: &str = "10.231.8.1";
pub(crate) const DATABASE: [&str; 3] = ["10.231.8.10", "10.231.8.11", "10.231.8.12"];
/// Addresses of pods.
const POD_NET: &str = "10.231.9.0/24";
const POD_GATEWAY: &str = "10.231.9.1";
/// Addresses of services, and the one that the tests' service has.
const SERVICES: &str = "10.96.0.0/16";
pub(crate) const CLUSTER_IP: &str = "10.96.0.50";
/// Where names of services end.
const DOMAIN: &str = "cluster.local";
/// Everything is slow on a busy machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(180);

/// What `cargo xtask cluster` says where things are.
#[derive(Clone)]
pub(crate) struct Place {
    servers: PathBuf,
    kubectl: PathBuf,
    pub(crate) helm: PathBuf,
    pub(crate) deploy: PathBuf,
    images: Vec<PathBuf>,
}

impl Place {
    pub(crate) fn of_environment() -> Result<Self> {
        let path = |name: &str| {
            std::env::var_os(name)
                .map(PathBuf::from)
                .with_context(|| format!("{name}: run cargo xtask cluster"))
        };
        let images = std::env::var("LOCKGATE_IMAGES").context("LOCKGATE_IMAGES: run cargo xtask cluster")?;
        Ok(Self {
            servers: path("LOCKGATE_KUBERNETES")?,
            kubectl: path("LOCKGATE_KUBECTL")?,
            helm: path("LOCKGATE_HELM")?,
            deploy: path("LOCKGATE_DEPLOY")?,
            images: images.split(':').map(PathBuf::from).collect(),
        })
    }
}

/// A running cluster; all of it goes with it.
pub(crate) struct Cluster {
    pub(crate) place: Place,
    /// In the order of their start; ended from the last to the first.
    servers: Vec<(&'static str, Child)>,
    pub(crate) scratch: Scratch,
    _alone: File,
}

impl Cluster {
    pub(crate) fn start(place: Place) -> Result<Self> {
        ensure!(nix::unistd::geteuid().is_root(), "a cluster needs root");
        // Cgroups are the machine's: two at once would end each other.
        let alone = File::open(std::env::current_exe()?)?;
        ensure!(alone.try_lock().is_ok(), "this suite runs already");
        let pods = cgroup_mount()?.join(PODS.trim_start_matches('/'));
        ensure!(
            fs::metadata(cgroup_mount()?.join(OWN_CGROUP.trim_start_matches('/'))).is_ok() || !pods.exists(),
            "{} is there: this machine is a node of another cluster",
            pods.display()
        );
        clear_cgroups(&[OWN_CGROUP, PODS]);
        private_mounts()?;
        network()?;
        fs::create_dir_all(cgroup_mount()?.join(OWN_CGROUP.trim_start_matches('/')))?;
        let scratch = Scratch::new("cluster")?;
        let mut cluster = Self { place, servers: Vec::new(), scratch, _alone: alone };
        cluster.certificates()?;
        cluster.control_plane()?;
        cluster.node()?;
        Ok(cluster)
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.scratch.path().join(name)
    }

    fn control_plane(&mut self) -> Result<()> {
        let (etcd, api) = (self.server("etcd"), self.server("kube-apiserver"));
        self.spawn(
            "etcd",
            Command::new(etcd).arg("--data-dir").arg(self.path("etcd")).args([
                "--listen-client-urls=http://127.0.0.1:2379",
                "--advertise-client-urls=http://127.0.0.1:2379",
                "--unsafe-no-fsync",
            ]),
        )?;
        let file = |name: &str| self.path(name).display().to_string();
        let mut command = Command::new(api);
        command
            .args([
                "--etcd-servers=http://127.0.0.1:2379",
                "--authorization-mode=Node,RBAC",
                "--allow-privileged=true",
            ])
            .arg(format!("--advertise-address={NODE}"))
            .args(["--bind-address=0.0.0.0", "--secure-port=6443"])
            .arg(format!("--tls-cert-file={}", file("api.crt")))
            .arg(format!("--tls-private-key-file={}", file("api.key")))
            .arg(format!("--client-ca-file={}", file("ca.crt")))
            .args(["--service-account-issuer", "https://kubernetes.default.svc.cluster.local"])
            .arg(format!("--service-account-key-file={}", file("sa.key")))
            .arg(format!("--service-account-signing-key-file={}", file("sa.key")))
            .arg(format!("--service-cluster-ip-range={SERVICES}"))
            .arg(format!("--kubelet-client-certificate={}", file("admin.crt")))
            .arg(format!("--kubelet-client-key={}", file("admin.key")))
            .arg("--kubelet-preferred-address-types=InternalIP");
        self.spawn("kube-apiserver", &mut command)?;
        self.kubeconfig()?;
        self.wait("the API server is ready", |cluster| {
            Ok(cluster.try_kubectl(&["get", "--raw", "/readyz"]).is_ok())
        })?;
        let (manager, scheduler) = (self.server("kube-controller-manager"), self.server("kube-scheduler"));
        let mut command = Command::new(manager);
        command
            .arg(format!("--kubeconfig={}", file_of(self, "kubeconfig")))
            .arg(format!("--service-account-private-key-file={}", file_of(self, "sa.key")))
            .arg(format!("--root-ca-file={}", file_of(self, "ca.crt")))
            .args(["--use-service-account-credentials=false", "--leader-elect=false", "--port=0"])
            .args(["--secure-port=10257", "--bind-address=127.0.0.1"])
            .arg(format!("--cert-dir={}", file_of(self, "manager")));
        self.spawn("kube-controller-manager", &mut command)?;
        let mut command = Command::new(scheduler);
        command
            .arg(format!("--kubeconfig={}", file_of(self, "kubeconfig")))
            .args(["--leader-elect=false", "--port=0", "--secure-port=10259", "--bind-address=127.0.0.1"])
            .arg(format!("--cert-dir={}", file_of(self, "scheduler")));
        self.spawn("kube-scheduler", &mut command)
    }

    fn node(&mut self) -> Result<()> {
        self.containerd()?;
        self.name_server()?;
        self.kubelet()?;
        let proxy = self.server("kube-proxy");
        let mut command = Command::new(proxy);
        command
            .arg(format!("--kubeconfig={}", file_of(self, "kubeconfig")))
            .args(["--proxy-mode=iptables", "--hostname-override=node-1", "--cluster-cidr", POD_NET])
            // Sysctls of the machine stay as they are.
            .args(["--conntrack-max-per-core=0", "--conntrack-tcp-timeout-established=0s"])
            .args(["--conntrack-tcp-timeout-close-wait=0s", "--healthz-bind-address=127.0.0.1:10256"])
            .arg("--metrics-bind-address=127.0.0.1:10249");
        self.spawn("kube-proxy", &mut command)?;
        self.wait("the node is ready", |cluster| {
            let Ok(node) = cluster.json(&["get", "node", "node-1"]) else { return Ok(false) };
            let conditions = node["status"]["conditions"].as_array().cloned().unwrap_or_default();
            Ok(conditions.iter().any(|one| one["type"] == "Ready" && one["status"] == "True"))
        })
    }

    fn containerd(&mut self) -> Result<()> {
        let directory = self.path("containerd");
        fs::create_dir_all(&directory)?;
        let network = json!({ "cniVersion": "0.4.0", "name": "pods", "plugins": [{
            "type": "bridge", "bridge": "pods0", "isGateway": true,
            "ipam": { "type": "host-local", "ranges": [[{ "subnet": POD_NET, "gateway": POD_GATEWAY }]],
                      "routes": [{ "dst": "0.0.0.0/0" }], "dataDir": self.path("ipam") } }] });
        self.scratch.write("cni/10-pods.conflist", &network.to_string())?;
        let text = format!(
            "version = 2\nroot = \"{0}/root\"\nstate = \"{0}/state\"\n[grpc]\n  address = \"{0}/c.sock\"\n\
             [plugins.\"io.containerd.grpc.v1.cri\"]\n  sandbox_image = \"localhost/lockgate-test/job:1\"\n  restrict_oom_score_adj = true\n  \
             [plugins.\"io.containerd.grpc.v1.cri\".cni]\n    bin_dir = \"/usr/lib/cni\"\n    conf_dir = \"{1}\"\n",
            directory.display(),
            self.path("cni").display(),
        );
        let config = self.scratch.write("containerd.toml", &text)?;
        self.spawn("containerd", Command::new("containerd").arg("--config").arg(config))?;
        let images = self.place.images.clone();
        self.wait("containerd answers", |cluster| Ok(cluster.ctr(&["version"]).is_ok()))?;
        for image in images {
            self.ctr(&["--namespace", "k8s.io", "images", "import", &image.display().to_string()])?;
        }
        Ok(())
    }

    fn ctr(&self, arguments: &[&str]) -> Result<String> {
        output(Command::new("ctr").arg("--address").arg(self.path("containerd/c.sock")).args(arguments))
    }

    /// The agent's image under another tag, as a new version comes.
    pub(crate) fn another_tag(&self, tag: &str) -> Result<()> {
        let images = self.ctr(&["--namespace", "k8s.io", "images", "list", "--quiet"])?;
        let own = images.lines().find(|name| name.contains("/lockgate:")).context("the agent's image")?;
        let (repository, _) = own.rsplit_once(':').context("a tag")?;
        self.ctr(&["--namespace", "k8s.io", "images", "tag", own, &format!("{repository}:{tag}")]).map(drop)
    }

    /// Names of services, as the cluster's DNS has them: of a cluster address, and of what stands behind a headless one.
    fn name_server(&mut self) -> Result<()> {
        let mut command = Command::new("dnsmasq");
        command
            .args([
                "--keep-in-foreground",
                "--no-resolv",
                "--no-hosts",
                "--bind-interfaces",
                "--pid-file",
                "--user=root",
            ])
            .arg("--conf-file=/dev/null")
            .arg(format!("--listen-address={NODE}"))
            .arg(format!("--host-record=orders.shop.svc.{DOMAIN},{CLUSTER_IP}"))
            .arg(format!("--host-record=orders-headless.shop.svc.{DOMAIN},{}", DATABASE[1]));
        self.spawn("dnsmasq", &mut command)
    }

    fn kubelet(&mut self) -> Result<()> {
        let config = json!({
            "apiVersion": "kubelet.config.k8s.io/v1beta1", "kind": "KubeletConfiguration",
            "address": NODE, "port": 10250, "healthzPort": 10248, "healthzBindAddress": "127.0.0.1",
            "cgroupDriver": "cgroupfs", "failSwapOn": false, "enforceNodeAllocatable": [],
            "authentication": { "anonymous": { "enabled": false }, "webhook": { "enabled": false },
                                "x509": { "clientCAFile": self.path("ca.crt") } },
            "authorization": { "mode": "AlwaysAllow" },
            "clusterDNS": [NODE], "clusterDomain": DOMAIN,
            "tlsCertFile": self.path("api.crt"), "tlsPrivateKeyFile": self.path("api.key"),
            "imageGCHighThresholdPercent": 100, "maxOpenFiles": 20000,
            "evictionHard": { "nodefs.available": "1Mi", "imagefs.available": "1Mi" },
            "syncFrequency": "5s",
        });
        let config = self.scratch.write("kubelet.json", &config.to_string())?;
        let kubelet = self.server("kubelet");
        let mut command = Command::new(kubelet);
        command
            .arg(format!("--config={}", config.display()))
            .arg("--container-runtime=remote")
            .arg(format!("--container-runtime-endpoint=unix://{}", file_of(self, "containerd/c.sock")))
            .arg(format!("--kubeconfig={}", file_of(self, "kubeconfig")))
            .arg(format!("--root-dir={}", file_of(self, "kubelet")))
            .args(["--hostname-override=node-1", "--node-ip", NODE]);
        self.spawn("kubelet", &mut command)
    }

    /// A CA, and what it signs: the API server (and kubelet), an administrator; the key of service accounts.
    fn certificates(&self) -> Result<()> {
        let key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"];
        let here = || {
            let mut command = Command::new("openssl");
            command.current_dir(self.scratch.path());
            command
        };
        let ca =
            ["req", "-x509", "-keyout", "ca.key", "-out", "ca.crt", "-days", "2", "-subj", "/CN=test-ca"];
        output(here().args(ca).args(key))?;
        let names = format!(
            "subjectAltName=DNS:localhost,DNS:kubernetes.default.svc,DNS:node-1,IP:127.0.0.1,IP:10.96.0.1,IP:{NODE}"
        );
        for (name, subject, extension) in [
            ("api", "/CN=kube-apiserver", format!("{names}\nextendedKeyUsage=serverAuth\n")),
            ("admin", "/O=system:masters/CN=admin", "extendedKeyUsage=clientAuth\n".to_owned()),
        ] {
            let extensions = self.scratch.write("extensions", &extension)?;
            let (file, request, certificate) =
                (format!("{name}.key"), format!("{name}.csr"), format!("{name}.crt"));
            output(here().arg("req").args(key).args(["-keyout", &file, "-out", &request, "-subj", subject]))?;
            let sign =
                ["x509", "-req", "-in", &request, "-CA", "ca.crt", "-CAkey", "ca.key", "-CAcreateserial"];
            output(here().args(sign).args(["-days", "2", "-out", &certificate, "-extfile"]).arg(extensions))?;
        }
        output(here().args(["genrsa", "-out", "sa.key", "2048"]))?;
        Ok(())
    }

    fn kubeconfig(&self) -> Result<()> {
        let config = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "admin",
            "clusters": [{ "name": "test", "cluster": { "server": "https://localhost:6443", "certificate-authority": self.path("ca.crt") } }],
            "users": [{ "name": "admin", "user": { "client-certificate": self.path("admin.crt"), "client-key": self.path("admin.key") } }],
            "contexts": [{ "name": "admin", "context": { "cluster": "test", "user": "admin" } }],
        });
        self.scratch.write("kubeconfig", &config.to_string())?;
        Ok(())
    }

    fn server(&self, name: &str) -> PathBuf {
        self.place.servers.join(name)
    }

    /// Starts a server in the cluster's cgroup; it dies with this process.
    fn spawn(&mut self, name: &'static str, command: &mut Command) -> Result<()> {
        let log = File::options().create(true).append(true).open(self.log_path(name))?;
        let procs = cgroup_mount()?.join(OWN_CGROUP.trim_start_matches('/')).join("cgroup.procs");
        let mut wrapped = Command::new("sh");
        wrapped
            .args(["-c", "echo $$ > \"$0\" && exec setpriv --pdeathsig KILL -- \"$@\""])
            .arg(procs)
            .arg(command.get_program())
            .args(command.get_args())
            .env("HOME", self.scratch.path())
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log);
        let child = wrapped.spawn().with_context(|| format!("start {name}"))?;
        self.servers.push((name, child));
        Ok(())
    }

    fn log_path(&self, name: &str) -> PathBuf {
        self.path(&format!("{name}.log"))
    }

    /// The end of a server's log.
    pub(crate) fn log(&self, name: &str, lines: usize) -> String {
        let text = fs::read(self.log_path(name)).unwrap_or_default();
        let text = String::from_utf8_lossy(&text).into_owned();
        let all: Vec<&str> = text.lines().collect();
        all.get(all.len().saturating_sub(lines)..).unwrap_or_default().join("\n")
    }

    /// Until it is so; fails when a server has ended.
    pub(crate) fn wait(&mut self, what: &str, mut is: impl FnMut(&Self) -> Result<bool>) -> Result<()> {
        let until = Instant::now() + PATIENCE;
        while !is(self)? {
            for (name, child) in &mut self.servers {
                if let Some(status) = child.try_wait()? {
                    let name = *name;
                    bail!("{name} has ended ({status}):\n{}", self.log(name, 30));
                }
            }
            ensure!(Instant::now() < until, "not within {PATIENCE:?}: {what}");
            std::thread::sleep(Duration::from_millis(200));
        }
        Ok(())
    }

    pub(crate) fn kubectl_command(&self) -> Command {
        let mut command = Command::new(&self.place.kubectl);
        command.arg("--kubeconfig").arg(self.path("kubeconfig")).env("HOME", self.scratch.path());
        command.stdin(Stdio::null());
        command
    }

    pub(crate) fn try_kubectl(&self, arguments: &[&str]) -> Result<String> {
        output(self.kubectl_command().args(arguments))
    }

    /// `kubectl get … -o json`
    pub(crate) fn json(&self, arguments: &[&str]) -> Result<Value> {
        Ok(serde_json::from_str(&self.try_kubectl(&[arguments, &["-o", "json"]].concat())?)?)
    }

    /// `kubectl apply` of these documents.
    pub(crate) fn apply(&self, documents: &[Value]) -> Result<()> {
        let list = json!({ "apiVersion": "v1", "kind": "List", "items": documents });
        let file = self.scratch.write("apply.json", &list.to_string())?;
        self.try_kubectl(&["apply", "-f", &file.display().to_string()]).map(drop)
    }

    pub(crate) fn apply_file(&self, path: &Path) -> Result<()> {
        self.try_kubectl(&["apply", "-f", &path.display().to_string()]).map(drop)
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if std::thread::panicking() || std::env::var_os("LOCKGATE_CLUSTER_LOGS").is_some() {
            for name in ["kubelet", "containerd", "kube-proxy"] {
                eprintln!("── {name}:\n{}", self.log(name, 20));
            }
        }
        while let Some((_, mut child)) = self.servers.pop() {
            let _ = child.kill();
            let _ = child.wait();
        }
        clear_cgroups(&[OWN_CGROUP, PODS, "/lockgate/agent"]);
        // The kubelet's and containerd's mounts below the scratch directory; the rest goes with the mount namespace.
        unmount_below(self.scratch.path());
    }
}

fn file_of(cluster: &Cluster, name: &str) -> String {
    cluster.path(name).display().to_string()
}

/// Ends what runs in the cluster's cgroups and removes them, in every hierarchy.
fn clear_cgroups(cgroups: &[&str]) {
    for cgroup in cgroups {
        remove_cgroup(cgroup);
    }
    for controller in fs::read_dir("/sys/fs/cgroup").into_iter().flatten().flatten() {
        remove_directories(&controller.path().join("kubepods"));
    }
}

fn remove_directories(path: &Path) {
    for entry in fs::read_dir(path).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove_directories(&entry.path());
        }
    }
    let _ = fs::remove_dir(path);
}

fn unmount_below(directory: &Path) {
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let inside = directory.display().to_string();
    let points =
        mounts.lines().filter_map(|line| line.split(' ').nth(1)).filter(|point| point.starts_with(&inside));
    for point in points.collect::<Vec<_>>().into_iter().rev() {
        let _ = nix::mount::umount2(point, nix::mount::MntFlags::MNT_DETACH);
    }
}

/// What the node's programs and the agent write goes with this mount namespace.
fn private_mounts() -> Result<()> {
    ensure!(is_apart("mnt")?, "not in a mount namespace of its own: run cargo xtask cluster");
    for directory in ["/var/lib", "/var/log", "/run"] {
        output(Command::new("mount").args(["-t", "tmpfs", "tmpfs", directory]))?;
    }
    output(Command::new("mount").args(["-t", "bpf", "bpf", "/sys/fs/bpf"]))?;
    // Within this namespace: volumes of pods follow what is mounted later.
    output(Command::new("mount").args(["--make-rshared", "/"])).map(drop)
}

fn network() -> Result<()> {
    ensure!(is_apart("net")?, "not in a network namespace of its own: run cargo xtask cluster");
    let mut lines = vec![
        "link set lo up".to_owned(),
        "link add node0 type bridge".to_owned(),
        "link set node0 up".to_owned(),
    ];
    lines.extend([NODE].iter().chain(&DATABASE).map(|address| format!("addr add {address}/32 dev node0")));
    // The API server asks for a default route to know itself by.
    lines.push(format!("route add default dev node0 src {NODE}"));
    for line in lines {
        output(Command::new("ip").args(line.split(' ')))?;
    }
    for (name, value) in [("net/ipv4/ip_forward", "1"), ("net/ipv4/conf/all/rp_filter", "0")] {
        fs::write(Path::new("/proc/sys").join(name), value)?;
    }
    Ok(())
}

/// What a command prints; its words when it fails.
pub(crate) fn output(command: &mut Command) -> Result<String> {
    let program = command.get_program().to_owned();
    let output = command.output().with_context(|| format!("start {}", program.display()))?;
    ensure!(
        output.status.success(),
        "{} {:?}: {}\n{}{}",
        program.display(),
        command.get_args().collect::<Vec<_>>(),
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
