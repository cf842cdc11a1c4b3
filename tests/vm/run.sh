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
suites=(attacks faults guarantees image_roots isolation limits machine rootless weakened)
[ "$#" -eq 0 ] || suites=("$@")
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
qemu=
clean() {
    [ -z "$qemu" ] || kill "$qemu"
    rm -rf "$work"
}
trap clean EXIT

root=$work/root
mkdir "$root"
tar -C "$root" -xf "$cache/root.tar" --exclude=./dev
mkdir -p "$root/dev" "$root/tests"
install -m 755 "$self/init.sh" "$root/sbin/vm-init"
objcopy --strip-debug "$top/target/release/caisson" "$root/tests/caisson"
objcopy --strip-debug "$top/target/release/caisson-probe" "$root/tests/caisson-probe"
mkdir "$root/tests/examples"
objcopy --strip-debug "$(program_of faulty)" "$root/tests/examples/faulty"
for name in "${suites[@]}"; do
    objcopy --strip-debug "$(program_of "$name")" "$root/tests/suite-$name"
done
du -sm "$root" | awk '{ print "The root has " $1 " MiB" }'
truncate -s 6G "$work/disk"
mkfs.ext4 -q -F -O ^has_journal -d "$root" "$work/disk"
rm -rf "$root"

# Without KVM a kernel stands still now and then while it boots: it gets another try.
booted() {
    for ((second = 0; second < boot_within_s; second++)); do
        ! grep -q "VM: Linux" "$work/console" || return 0
        kill -0 "$qemu" 2>/dev/null || return 0
        sleep 1
    done
    return 1
}
for try in 1 2 3; do
    echo "Booting"
    : >"$work/console"
    timeout "$limit_s" qemu-system-x86_64 -accel tcg,thread=multi -cpu max -smp 2 -m 6144 -nographic -no-reboot -nic none \
        -kernel "$cache/vmlinuz" -initrd "$cache/initrd.img" -append "console=ttyS0 quiet panic=-1 systemd.unified_cgroup_hierarchy=1" \
        -drive "file=$work/disk,format=raw,if=virtio,cache=unsafe" </dev/null > >(tee "$work/console") 2>&1 &
    qemu=$!
    ! booted || break
    echo "tests/vm/run.sh: the virtual machine did not boot within $boot_within_s s (try $try of 3)" >&2
    kill "$qemu"
    wait "$qemu" || true
    qemu=
done
[ -n "$qemu" ] || exit 1
status=0
wait "$qemu" || status=$?
qemu=
if [ "$status" -ne 0 ]; then
    echo "tests/vm/run.sh: the virtual machine ended with $status (124: after $limit_s s)" >&2
    exit 1
fi
# The console ends lines with a carriage return.
if ! tr -d '\r' <"$work/console" | grep -qx "VM: all suites passed"; then
    echo "tests/vm/run.sh: not all suites passed" >&2
    exit 1
fi
