#!/usr/bin/env bash
# Kubernetes' servers and its kubelet from Debian's own source package, with Debian's Go, and Debian's etcd: everything comes
# from the mirror this machine already uses. About ten minutes of one core, once. usage: cluster.sh OUT
set -euo pipefail
mkdir -p "$1/bin" "$1/src"
OUT=$(realpath "$1")
MIRROR=$(apt-get indextargets --format '$(SITE)' | grep -v security | head -n 1)

# An apt of its own for each suite, so that the machine's sources stay as they are.
apt_root() {
  local suite=$1 root="$OUT/apt-$1"
  mkdir -p "$root"/{etc/apt.conf.d,etc/preferences.d,etc/sources.list.d,state/lists/partial,cache/archives/partial}
  : >"$root/status"
  local key='[signed-by=/usr/share/keyrings/debian-archive-keyring.gpg]'
  printf 'deb %s %s %s main\ndeb-src %s %s %s main\n' "$key" "$MIRROR" "$suite" "$key" "$MIRROR" "$suite" >"$root/etc/sources.list"
  cat >"$root/apt.conf" <<CONF
Dir::Etc "$root/etc";
Dir::State "$root/state";
Dir::State::status "$root/status";
Dir::Cache "$root/cache";
APT::Sandbox::User "root";
Acquire::Languages "none";
CONF
  APT_CONFIG="$root/apt.conf" apt-get update -qq
}

apt_root bookworm
apt_root trixie
apt-get install -y -qq --no-install-recommends golang-1.19-go dpkg-dev >/dev/null
cd "$OUT/src"
APT_CONFIG="$OUT/apt-trixie/apt.conf" apt-get download -qq etcd-server
dpkg -x etcd-server_*.deb etcd
cp etcd/usr/bin/etcd "$OUT/bin/"
ls -d kubernetes-1.20* >/dev/null 2>&1 || APT_CONFIG="$OUT/apt-bookworm/apt.conf" apt-get source -qq kubernetes

export GOPATH="$OUT/gopath" GOCACHE="$OUT/gocache" GO111MODULE=off CGO_ENABLED=0 PATH="/usr/lib/go-1.19/bin:$PATH"
mkdir -p "$GOPATH/src/k8s.io"
ln -sfn "$OUT"/src/kubernetes-1.20*/ "$GOPATH/src/k8s.io/kubernetes"
cd "$GOPATH/src/k8s.io/kubernetes"
if [ ! -f pkg/generated/openapi/zz_generated.openapi.go ]; then
  # The one generated file that the source package lacks.
  go build -o "$OUT/bin/openapi-gen" ./vendor/k8s.io/kube-openapi/cmd/openapi-gen
  inputs=$(grep -rlE --include='*.go' '^// *\+k8s:openapi-gen=true' pkg cmd staging/src | grep -v _test | xargs -n1 dirname | sort -u |
    sed -e 's#^staging/src/#k8s.io/kubernetes/vendor/#' -e 's#^\(pkg\|cmd\)/#k8s.io/kubernetes/\1/#' |
    grep -vE 'sample-|testing|/test|code-generator' | paste -sd,)
  "$OUT/bin/openapi-gen" --logtostderr -i "$inputs" -p k8s.io/kubernetes/pkg/generated/openapi -O zz_generated.openapi \
    -h hack/boilerplate/boilerplate.generatego.txt -r /dev/null 2>/dev/null
fi
flags="-s -w"
for package in k8s.io/kubernetes/vendor/k8s.io/component-base/version k8s.io/kubernetes/vendor/k8s.io/client-go/pkg/version; do
  flags="$flags -X $package.gitVersion=v1.20.2 -X $package.gitMajor=1 -X $package.gitMinor=20 -X $package.gitTreeState=clean"
done
for command in kube-apiserver kubelet kube-controller-manager kube-scheduler kube-proxy; do
  [ -x "$OUT/bin/$command" ] && continue
  nice -n 19 go build -trimpath -ldflags "$flags" -o "$OUT/bin/" "./cmd/$command"
done
# Two gigabytes that nobody asks for again.
cd "$OUT"
rm -rf gocache gopath src bin/openapi-gen
