#!/usr/bin/env bash
# Boots Debian's kernel, which has cgroup v2, in QEMU without KVM, and runs suites in it, one after the other.
# usage: run.sh [SUITE…]    without a name: all that are about what the kernel does
set -euo pipefail
self=$(dirname "$(realpath "${BASH_SOURCE[0]}")")
top=$(realpath "$self/../..")
cache=$top/target/vm
limit_s=3600
boot_within_s=120
# What another kernel and other control groups can change. The rest is about the API, the command line and load, on the same sandboxes.
# Each line is a machine of its own: without KVM, one keeps about one processor busy.
machines=("faults isolation limits weakened" "image_roots attacks guarantees machine rootless conformance")
[ "$#" -eq 0 ] || machines=("$*")
cargo=$(command -v cargo || echo "$HOME/.cargo/bin/cargo")

if [ "$(id -u)" -ne 0 ]; then
    exec sudo -E "$0" "$@"
fi
"$self/image.sh" "$cache"

# Lines of name and program: the suites, and what they start beside `caisson`. Selected as `make test` selects them, so that nothing is
# built twice.
build() {
    (cd "$top" && "$cargo" "$@" --release --locked --quiet --message-format=json)
}
others=(--workspace --exclude caisson-tests --exclude caisson-fuzz)
# As a program, which `cargo test` would make tests of if it is named there.
built=$({ build test --package caisson-tests --no-run && build test "${others[@]}" --test '*' --no-run && build build "${others[@]}" --example faulty; } |
    jq -r 'select(.executable and (.target.kind[0] == "test" or .target.kind[0] == "example")) | .target.name + " " + .executable')
program_of() {
    local found
    found=$(awk -v name="$1" '$1 == name { print $2 }' <<<"$built")
    [ -n "$found" ] || { echo "tests/vm/run.sh: there is no suite or program \`$1\`" >&2; exit 1; }
    echo "$found"
}

work=$(mktemp -d)
clean() {
    jobs -p | xargs -r kill 2>/dev/null || true
    wait
    rm -rf "$work"
}
trap clean EXIT

# Fills a disk with the system, the programs and these suites. usage: disk DIRECTORY SUITE…
disk() {
    local place=$1 root=$1/root name
    shift
    mkdir "$root"
    tar -C "$root" -xf "$cache/root.tar" --exclude=./dev
    mkdir -p "$root/dev" "$root/tests/examples"
    install -m 755 "$self/init.sh" "$root/sbin/vm-init"
    objcopy --strip-debug "$top/target/release/caisson" "$root/tests/caisson"
    objcopy --strip-debug "$top/target/release/caisson-probe" "$root/tests/caisson-probe"
    objcopy --strip-debug "$(program_of faulty)" "$root/tests/examples/faulty"
    for name in "$@"; do
        objcopy --strip-debug "$(program_of "$name")" "$root/tests/suite-$name"
    done
    truncate -s 6G "$place/disk"
    mkfs.ext4 -q -F -O ^has_journal -d "$root" "$place/disk"
    rm -rf "$root"
}

# Without KVM a kernel stands still now and then while it boots: it gets another try. usage: booted CONSOLE PID
booted() {
    for ((second = 0; second < boot_within_s; second++)); do
        ! grep -q "VM: Linux" "$1" || return 0
        kill -0 "$2" 2>/dev/null || return 0
        sleep 1
    done
    return 1
}

# Runs what is on a disk to its end. usage: machine DIRECTORY
machine() {
    local place=$1 qemu='' status=0
    trap '[ -z "$qemu" ] || kill "$qemu"' EXIT
    for try in 1 2 3; do
        : >"$place/console"
        timeout "$limit_s" qemu-system-x86_64 -accel tcg,thread=multi -cpu max -smp 2 -m 6144 -nographic -no-reboot -nic none \
            -kernel "$cache/vmlinuz" -initrd "$cache/initrd.img" -append "console=ttyS0 quiet panic=-1 systemd.unified_cgroup_hierarchy=1" \
            -drive "file=$place/disk,format=raw,if=virtio,cache=unsafe" </dev/null >"$place/console" 2>&1 &
        qemu=$!
        ! booted "$place/console" "$qemu" || break
        echo "tests/vm/run.sh: the virtual machine did not boot within $boot_within_s s (try $try of 3)" >&2
        kill "$qemu"
        wait "$qemu" || true
        qemu=
    done
    [ -n "$qemu" ] || return 1
    wait "$qemu" || status=$?
    qemu=
    if [ "$status" -ne 0 ]; then
        echo "tests/vm/run.sh: the virtual machine ended with $status (124: after $limit_s s)" >&2
        return 1
    fi
    # The console ends lines with a carriage return.
    tr -d '\r' <"$place/console" | grep -x "VM: all suites passed" >/dev/null
}

for at in "${!machines[@]}"; do
    mkdir "$work/$at"
    # Names without spaces, with spaces between them.
    # shellcheck disable=SC2086
    disk "$work/$at" ${machines[at]}
    echo "Booting for ${machines[at]}"
    machine "$work/$at" &
    running[at]=$!
done
failed=0
for at in "${!machines[@]}"; do
    wait "${running[at]}" || failed=1
    cat "$work/$at/console"
done
if [ "$failed" -ne 0 ]; then
    echo "tests/vm/run.sh: not all suites passed" >&2
    exit 1
fi
