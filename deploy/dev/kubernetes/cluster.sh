#!/usr/bin/env bash
# `make cluster`: a node of Kubernetes with its control plane on this host, deploy/kubernetes/agent.yaml on it as it stands,
# and what becomes of it. Expects what `deploy/dev/setup.sh etcd 3.6 kubernetes` leaves, and a release build of the agent.
#
#   cluster.sh run          up, check and down
#   cluster.sh up           the node: containerd, a kubelet, etcd as its static pod, the control plane as processes
#   cluster.sh check        applies the manifest, asks all that can be asked, deletes it; WATCH=180 seconds of quiet between
#   cluster.sh down         everything that `up` made, gone but for the report in target/cluster-report
#   cluster.sh kubectl ...  for a look at a node that stands
#
# As root only. The node has a network and mounts of its own; its ports meet nobody else's, and it reaches nobody. What it
# needs at fixed places of the file system must not be there before, and is removed. No Docker is asked: the image starts what
# deploy/Dockerfile starts, above the libraries that the agent links to instead of a whole Debian.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../../.."

readonly HERE=$PWD/deploy/dev/kubernetes MANIFEST=$PWD/deploy/kubernetes/agent.yaml
readonly BIN=$PWD/.tools/kubernetes ETCD=$PWD/.tools/etcd/3.6/etcd
readonly TARGET=${CARGO_TARGET_DIR:-$PWD/target}
readonly AGENT=$TARGET/release/agent WORK=$TARGET/cluster REPORT=$TARGET/cluster-report
readonly SOCKET=$WORK/containerd.sock PKI=/etc/kubernetes/pki
# Also in etcd.yaml. An address for documentation, on loopback: a kubelet refuses one of loopback's own.
readonly NODE=cp-1 ADDRESS=198.51.100.1
readonly PLACES=(/etc/kubernetes /etc/cni /opt/containerd /run/containerd /run/nri /usr/libexec/kubernetes /var/lib/backburn
    /var/lib/etcd /var/lib/kubelet /var/log/containers /var/log/pods)
# A kubelet sets these for the whole host.
readonly SYSCTLS=(vm.overcommit_memory vm.panic_on_oom kernel.panic kernel.panic_on_oops kernel.keys.root_maxkeys
    kernel.keys.root_maxbytes)
GROUPS_ROOT=$(findmnt --noheadings --first-only --types cgroup2 --output TARGET || true)
readonly GROUPS_ROOT GROUP=$GROUPS_ROOT/backburn-cluster

main() {
    case ${1:-} in
    run)
        # Here and not in `down`: what stood before is not ours to take away.
        refuse_to_meet_others
        trap down EXIT
        up
        check
        ;;
    up) refuse_to_meet_others; up ;;
    check | down) "$1" ;;
    kubectl) "$@" ;;
    *) die 'usage: deploy/dev/kubernetes/cluster.sh run|up|check|down|kubectl' ;;
    esac
}

# -------------------------------------------------------------------------------------------------------------- the node

refuse_to_meet_others() {
    local path tool
    [ "$(id -u)" = 0 ] || die 'a kubelet runs as root only'
    [ -n "$GROUPS_ROOT" ] || die 'no cgroup2 is mounted: the node could not be ended as a whole'
    for tool in cc curl ip ldd nsenter openssl tar unshare; do
        command -v "$tool" >/dev/null || die "$tool is missing"
    done
    for path in "$BIN/runc" "$ETCD" "$AGENT"; do [ -x "$path" ] || die "$path is missing: make cluster puts it there"; done
    for path in "${PLACES[@]}" "$WORK" "$GROUP"; do
        [ ! -e "$path" ] || die "$path is there already: this host is a node, or one was left (cluster.sh down)"
    done
}

up() {
    local token
    rm -rf "$REPORT"
    mkdir -p "$WORK" "$REPORT" "$GROUP"
    sysctl "${SYSCTLS[@]}" >"$WORK/sysctls"
    unshare --mount --net --propagation private sh -c 'mount --make-rshared / && exec sleep infinity' &
    echo $! >"$WORK/pid"
    echo $! >"$GROUP/cgroup.procs"
    disown
    wait_for 'its network' 5 is_apart
    in_node ip link set lo up
    in_node ip address add $ADDRESS/32 dev lo
    # As systemd does.
    in_node mount -t tracefs tracefs /sys/kernel/tracing 2>/dev/null || true
    token=$(openssl rand -hex 16)
    echo "$token,admin,admin,system:masters" >"$WORK/tokens.csv"
    cat >"$WORK/kubeconfig" <<EOF
apiVersion: v1
kind: Config
clusters: [{ name: c, cluster: { server: "https://127.0.0.1:6443", insecure-skip-tls-verify: true } }]
users: [{ name: u, user: { token: $token } }]
contexts: [{ name: c, context: { cluster: c, user: u } }]
current-context: c
EOF
    certificates
    runtime
    images
    kubelet
    wait_for 'etcd, a static pod,' 60 in_node curl -fsS http://127.0.0.1:2381/readyz
    control_plane
    wait_for 'the node' 60 kubectl get node $NODE
    kubectl label node $NODE node-role.kubernetes.io/control-plane= >/dev/null
    kubectl wait --for=condition=Ready node/$NODE --timeout=60s >/dev/null
    kubectl get node $NODE --no-headers -o wide | sed 's/^/cluster: /; s/   */  /g'
}

down() {
    local dir left
    [ -d "$WORK" ] || return 0
    say 'taking the node down'
    # Containers have groups of their own, beside that of the node's programs.
    for dir in "$GROUP" "$GROUPS_ROOT/kubepods"; do [ ! -d "$dir" ] || echo 1 >"$dir/cgroup.kill"; done
    # A group is busy until the last of its processes is reaped.
    for _ in $(seq 60); do
        left=
        for dir in "$GROUP" /sys/fs/cgroup/kubepods /sys/fs/cgroup/*/kubepods; do
            [ ! -d "$dir" ] || { find "$dir" -depth -type d -exec rmdir {} + 2>/dev/null || left=$dir; }
        done
        [ -n "$left" ] || break
        sleep 0.5
    done
    [ -z "$left" ] || die "$left is still in use"
    [ ! -e "$WORK/sysctls" ] || sysctl -q -p "$WORK/sysctls"
    # Mounts were in the node's namespace alone and are gone with it.
    rm -rf --one-file-system "${PLACES[@]}" "$WORK"
}

is_apart() { [ "$(readlink /proc/self/ns/net)" != "$(readlink "/proc/$(<"$WORK/pid")/ns/net")" ]; }

in_node() { nsenter --target "$(<"$WORK/pid")" --mount --net -- "$@"; }

kubectl() { in_node "$BIN/kubectl" --kubeconfig "$WORK/kubeconfig" "$@"; }

# start NAME COMMAND...: a program of the node, in the background; what it says is in the report's folder.
start() {
    local name=$1
    shift
    (
        echo $BASHPID >"$GROUP/cgroup.procs"
        exec nsenter --target "$(<"$WORK/pid")" --mount --net -- "$@"
    ) >"$REPORT/$name.log" 2>&1 </dev/null &
    disown
}

certificates() {
    local names="DNS:localhost,DNS:$NODE,IP:127.0.0.1,IP:$ADDRESS" client=extendedKeyUsage=clientAuth
    mkdir -p $PKI/etcd
    openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 3 -subj /CN=etcd-ca \
        -keyout $PKI/etcd/ca.key -out $PKI/etcd/ca.crt 2>/dev/null
    certificate etcd/server $NODE "subjectAltName=$names"
    certificate etcd/peer $NODE "subjectAltName=$names"
    certificate etcd/healthcheck-client kube-etcd-healthcheck-client $client
    certificate apiserver-etcd-client kube-apiserver-etcd-client $client
    openssl genrsa -out "$WORK/sa.key" 2048 2>/dev/null
    openssl rsa -in "$WORK/sa.key" -pubout -out "$WORK/sa.pub" 2>/dev/null
}

# certificate NAME COMMON_NAME EXTENSION: where kubeadm keeps it, the key for root alone.
certificate() {
    openssl req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj "/CN=$2" \
        -keyout "$PKI/$1.key" -out "$WORK/request" 2>/dev/null
    openssl x509 -req -in "$WORK/request" -CA $PKI/etcd/ca.crt -CAkey $PKI/etcd/ca.key -days 3 -out "$PKI/$1.crt" \
        -extfile <(echo "$3") 2>/dev/null
    chmod 0600 "$PKI/$1.key"
}

runtime() {
    mkdir -p /etc/cni/net.d
    # Ready is what a node becomes with a network; its pods here have the node's.
    echo '{"cniVersion": "0.4.0", "name": "none", "plugins": [{"type": "loopback"}]}' >/etc/cni/net.d/10-none.conflist
    cat >"$WORK/containerd.toml" <<EOF
version = 3
root = '$WORK/containerd'
[grpc]
address = '$SOCKET'
[plugins.'io.containerd.cri.v1.images'.pinned_images]
sandbox = 'registry.k8s.io/pause:local'
[plugins.'io.containerd.cri.v1.runtime']
# Without CAP_SYS_RESOURCE nobody is made less likely to be killed than the runtime is.
restrict_oom_score_adj = true
[plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc]
runtime_type = 'io.containerd.runc.v2'
[plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc.options]
BinaryName = '$BIN/runc'
EOF
    start containerd env PATH="$BIN:$PATH" "$BIN/containerd" --config "$WORK/containerd.toml"
    wait_for containerd 20 in_node "$BIN/ctr" --address "$SOCKET" version
}

images() {
    local root=$WORK/root library name
    name=$(sed -n 's/^ *image: //p' "$MANIFEST")
    mkdir -p "$root"
    cc -O2 -static -o "$root/pause" "$HERE/pause.c"
    image registry.k8s.io/pause:local '{"Entrypoint": ["/pause"]}'
    install -D "$ETCD" "$root/usr/local/bin/etcd"
    image registry.k8s.io/etcd:local '{"Env": ["PATH=/usr/local/bin"]}'
    install -D "$AGENT" "$root/usr/local/bin/agent"
    install -D /etc/ssl/certs/ca-certificates.crt "$root/etc/ssl/certs/ca-certificates.crt"
    for library in $(ldd "$AGENT" | grep -o '/[^ ]*'); do install -D "$library" "$root$library"; done
    image "docker.io/$name" "{\"Env\": [\"PATH=/usr/local/bin:/usr/bin:/bin\"], \
        \"Entrypoint\": $(sed -n 's/^ENTRYPOINT //p' deploy/Dockerfile), \"Cmd\": $(sed -n 's/^CMD //p' deploy/Dockerfile)}"
}

# image NAME CONFIG: an image of one layer from what lies in the root folder, which is empty afterwards.
image() {
    local dir=$WORK/image machine digest
    mkdir -p "$dir"
    tar -C "$WORK/root" --owner=0 --group=0 -cf "$dir/layer.tar" .
    machine=$(uname -m | sed 's/x86_64/amd64/; s/aarch64/arm64/')
    digest=$(sha256sum "$dir/layer.tar" | cut -d' ' -f1)
    echo "{\"architecture\": \"$machine\", \"os\": \"linux\", \"config\": $2," \
        "\"rootfs\": {\"type\": \"layers\", \"diff_ids\": [\"sha256:$digest\"]}}" >"$dir/config.json"
    echo "[{\"Config\": \"config.json\", \"RepoTags\": [\"$1\"], \"Layers\": [\"layer.tar\"]}]" >"$dir/manifest.json"
    tar -C "$dir" -c manifest.json config.json layer.tar |
        in_node "$BIN/ctr" --address "$SOCKET" --namespace k8s.io image import - 2> >(grep -v DEPRECATION >&2) >/dev/null
    rm -rf "$dir" "$WORK/root"
    mkdir "$WORK/root"
}

kubelet() {
    install -D -m 0600 "$HERE/etcd.yaml" /etc/kubernetes/manifests/etcd.yaml
    install -d -m 0700 /var/lib/etcd
    cat >"$WORK/kubelet.yaml" <<EOF
apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
address: $ADDRESS
staticPodPath: /etc/kubernetes/manifests
containerRuntimeEndpoint: unix://$SOCKET
cgroupDriver: cgroupfs
failCgroupV1: false
failSwapOn: false
makeIPTablesUtilChains: false
oomScoreAdj: 0
authentication: { anonymous: { enabled: true }, webhook: { enabled: false } }
authorization: { mode: AlwaysAllow }
# A developer's disk is often fuller than a node's may be.
evictionHard: { memory.available: 100Mi, nodefs.available: 1%, imagefs.available: 1% }
imageGCHighThresholdPercent: 100
volumePluginDir: $WORK/volume-plugins
registerWithTaints: [{ key: node-role.kubernetes.io/control-plane, effect: NoSchedule }]
EOF
    start kubelet "$BIN/kubelet" --config="$WORK/kubelet.yaml" --kubeconfig="$WORK/kubeconfig" --cert-dir="$WORK/kubelet-pki" \
        --hostname-override=$NODE --node-ip=$ADDRESS
}

control_plane() {
    local common=(--kubeconfig="$WORK/kubeconfig" --authentication-kubeconfig="$WORK/kubeconfig"
        --authorization-kubeconfig="$WORK/kubeconfig" --bind-address=127.0.0.1 --cert-dir="$WORK/certs" --leader-elect=false)
    start kube-apiserver "$BIN/kube-apiserver" --bind-address=127.0.0.1 --advertise-address=$ADDRESS --secure-port=6443 \
        --cert-dir="$WORK/certs" --etcd-servers=https://127.0.0.1:2379 --etcd-cafile=$PKI/etcd/ca.crt \
        --etcd-certfile=$PKI/apiserver-etcd-client.crt --etcd-keyfile=$PKI/apiserver-etcd-client.key \
        --service-cluster-ip-range=10.96.0.0/24 --endpoint-reconciler-type=none --authorization-mode=RBAC \
        --kubelet-preferred-address-types=InternalIP \
        --token-auth-file="$WORK/tokens.csv" --service-account-issuer=https://kubernetes.default.svc \
        --service-account-key-file="$WORK/sa.pub" --service-account-signing-key-file="$WORK/sa.key"
    wait_for 'the API server' 90 kubectl get --raw /readyz
    start kube-controller-manager "$BIN/kube-controller-manager" "${common[@]}" --service-account-private-key-file="$WORK/sa.key"
    start kube-scheduler "$BIN/kube-scheduler" "${common[@]}"
}

# -------------------------------------------------------------------------------------------------------------- the agent

check() {
    FAILED=0
    # The dry run wants the namespace to be there.
    kubectl create namespace backburn --dry-run=client -o yaml | kubectl apply -f - >/dev/null 2>&1
    holds 'the API server takes the manifest, no field unknown' kubectl apply --validate=strict --dry-run=server -f "$MANIFEST"
    stranger
    kubectl apply --validate=strict -f "$MANIFEST" >/dev/null 2>&1
    holds "its pod is ready" kubectl -n backburn rollout status ds/backburn-agent --timeout=60s
    sleep 15
    kubectl -n backburn logs ds/backburn-agent >"$REPORT/agent.log"
    says "$REPORT/agent.log" 'finds etcd by its process' "watching member=$NODE client=.https://127.0.0.1:2379. " \
        ' metrics=.http://127.0.0.1:2381/metrics. ' " log=./var/log/pods/kube-system_etcd-${NODE}_"
    says "$REPORT/agent.log" "is not misled by an application's etcd" 'has a network of its own and is not watched'
    says "$REPORT/agent.log" 'samples the node' 'is sampled 19 times a second'
    holds 'reads with its certificates, and passes' agent check
    holds 'has all privileges that the defaults need' agent doctor
    agent doctor 2>/dev/null | sed -n '/^PART/,/^$/p' | sed 's/^./          &/'
    node_page verdict >"$REPORT/verdict" && says "$REPORT/verdict" 'answers /verdict' '"state":"pass"'
    holds 'answers /readyz' node_page readyz
    # A client without a certificate is worth a warning to etcd, and that a line to the agent.
    in_node curl -sk https://127.0.0.1:2379 >/dev/null || true
    sleep 3
    node_page metrics >"$REPORT/metrics"
    says "$REPORT/metrics" "follows etcd's log" '^agent_logs_lines_total[{]reason="kept"[}] [1-9]'
    profiles
    quiet
    restarts
    [ "$FAILED" = 0 ] || die "$FAILED of these failed; what was seen is in $REPORT"
    say 'all of it works'
}

agent() { kubectl -n backburn exec ds/backburn-agent -- agent "$@"; }

node_page() { in_node curl -fsS "http://127.0.0.1:9464/$1"; }

# An etcd with a network of its own, as an application's pod has it: at the same address, and not the same.
stranger() {
    (
        echo $BASHPID >"$GROUP/cgroup.procs"
        exec unshare --net sh -c "ip link set lo up && exec $ETCD --data-dir $WORK/stranger"
    ) >"$REPORT/stranger.log" 2>&1 </dev/null &
    disown
}

profiles() {
    local id
    profile node -a --for 10s
    says "$REPORT/node.txt" "a profile of the node, the kernel's names in it" "programs' frames, (9.|100) % of the kernel's"
    tar -xOf "$REPORT/node.tar" cpu.pb.gz | gunzip >"$REPORT/node.pb"
    says "$REPORT/node.pb" "its samples know etcd's pod and namespace" "etcd-$NODE" kube-system
    profile member --name $NODE --for 5s
    says "$REPORT/member.txt" "a profile of the member, its slow lines read" '^slow lines: (none|[0-9])'
    id=$(kubectl -n kube-system get pod etcd-$NODE -o jsonpath='{.status.containerStatuses[0].containerID}')
    profile heap --container "${id##*/}" --for 5s --heap
    says "$REPORT/heap.txt" 'a heap without an endpoint' '^heap in use: '
    profile waiting --container "${id##*/}" --for 5s --off-cpu
    says "$REPORT/waiting.txt" 'where it waits' '^waiting: '
}

# profile NAME ARGUMENT...: from a read-only root, as a tar through kubectl.
profile() {
    local name=$1
    shift
    agent profile "$@" --out - >"$REPORT/$name.tar" 2>"$REPORT/$name.txt" || true
}

quiet() {
    local seconds=${WATCH:-180} uid group=/sys/fs/cgroup
    local pods=(kubectl -n backburn get pods -o)
    say "watching it for $seconds s"
    sleep "$seconds"
    equal restarts "$("${pods[@]}" jsonpath='{.items[0].status.containerStatuses[0].restartCount}')" 0
    uid=$("${pods[@]}" jsonpath='{.items[0].metadata.uid}')
    [ ! -d $group/cpu ] || group=$group/cpu
    # The group of its pause has none.
    find $group/kubepods -path "*pod$uid/*/cpu.stat" -exec awk '/nr_periods/ {n = $2} /nr_throttled/ && n > 0 {
        print "cluster: throttled in " $2 " of " n " tenths of a second" }' {} ';'
    node_page metrics | sed -n 's/^\(process_cpu_seconds_total\|process_resident_memory_peak_bytes\) /cluster: \1 /p'
}

restarts() {
    local before=$SECONDS
    kubectl -n backburn rollout restart ds/backburn-agent >/dev/null
    holds 'a rolling restart' kubectl -n backburn rollout status ds/backburn-agent --timeout=60s
    say "which took $((SECONDS - before)) s"
    sleep 3
    kubectl -n backburn logs ds/backburn-agent >"$REPORT/agent.2.log"
    says "$REPORT/agent.2.log" 'its state is kept' 'state restored; [0-9]+ s away'
    # The namespace waits for the pod, and the pod for the agent's end: twenty seconds are its grace.
    before=$SECONDS
    holds 'deleted' kubectl delete -f "$MANIFEST" --timeout=60s
    equal 'beyond its grace' $((SECONDS - before > 19)) 0
    equal 'pods left' "$(kubectl get pods -A -o name | grep -c backburn)" 0
}

# ------------------------------------------------------------------------------------------------------------------ words

# holds WHAT COMMAND...: what the command said is shown when it failed.
holds() {
    local what=$1 said
    shift
    if said=$("$@" 2>&1); then ok "$what"; else
        bad "$what"
        sed 's/^/          /' <<<"$said"
    fi
}

# says FILE WHAT PATTERN...
says() {
    local file=$1 what=$2 pattern
    shift 2
    for pattern in "$@"; do
        grep -aqE -- "$pattern" "$file" || { bad "$what: no $pattern in $file"; return; }
    done
    ok "$what"
}

equal() { if [ "$2" = "$3" ]; then ok "$1: $2"; else bad "$1: $2 and not $3"; fi; }

ok() { printf 'cluster: ok      %s\n' "$*"; }

bad() {
    FAILED=$((FAILED + 1))
    printf 'cluster: FAILED  %s\n' "$*"
}

# wait_for WHAT SECONDS COMMAND...
wait_for() {
    local what=$1 end=$((SECONDS + $2))
    shift 2
    until "$@" >/dev/null 2>&1; do
        [ $SECONDS -lt $end ] || die "$what did not come; see $REPORT"
        sleep 0.5
    done
}

say() { printf 'cluster: %s\n' "$*"; }

die() {
    printf 'cluster: %s\n' "$*" >&2
    exit 1
}

main "$@"
