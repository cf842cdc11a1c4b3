#!/usr/bin/env bash
# Boots Debian's kernel, which has cgroup v2, in QEMU without KVM, and runs the suites that make sandboxes in it, one after the other.
# usage: run.sh [SUITE…]    without a name: all
set -euo pipefail
self=$(dirname "$(realpath "${BASH_SOURCE[0]}")")
top=$(realpath "$self/../..")
cache=$top/target/vm
limit_s=2400
cargo=$(command -v cargo || echo "$HOME/.cargo/bin/cargo")

if [ "$(id -u)" -ne 0 ]; then
    exec sudo -E "$0" "$@"
fi
"$self/image.sh" "$cache"

mapfile -t tests < <(cd "$top" && "$cargo" test --release --locked --quiet --package caisson-tests --no-run --message-format=json |
    jq -r 'select(.profile.test and .executable and (.target.kind[0] == "test")) | .executable')
if [ "${#tests[@]}" -eq 0 ]; then
    echo "tests/vm/run.sh: there are no test programs" >&2
    exit 1
fi

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
for test in "${tests[@]}"; do
    name=$(basename "$test")
    name=${name%-*}
    # What the API says has nothing to do with the kernel, and the machine in there could not install what asks it.
    if [ "$name" = openapi ]; then
        continue
    fi
    if [ "$#" -eq 0 ] || [[ " $* " == *" $name "* ]]; then
        objcopy --strip-debug "$test" "$root/tests/suite-$name"
    fi
done
du -sm "$root" | awk '{ print "The root has " $1 " MiB" }'
truncate -s 6G "$work/disk"
mkfs.ext4 -q -F -O ^has_journal -d "$root" "$work/disk"
rm -rf "$root"

echo "Booting"
timeout "$limit_s" qemu-system-x86_64 -accel tcg,thread=multi -cpu max -smp 2 -m 6144 -nographic -no-reboot -nic none \
    -kernel "$cache/vmlinuz" -initrd "$cache/initrd.img" -append "console=ttyS0 quiet panic=-1 systemd.unified_cgroup_hierarchy=1" \
    -drive "file=$work/disk,format=raw,if=virtio,cache=unsafe" </dev/null > >(tee "$work/console") 2>&1 &
qemu=$!
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
