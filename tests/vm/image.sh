#!/usr/bin/env bash
# Makes what `make test-vm` boots: Debian's own kernel (cgroup v2), an initramfs that finds the disk, and a small Debian root.
# Everything comes from Debian's packages and is kept in the cache directory until the kernel package changes.
# usage: image.sh CACHE_DIRECTORY
set -euo pipefail
self=$(realpath "${BASH_SOURCE[0]}")
cache=$(realpath -m "$1")
mkdir -p "$cache"
cd "$cache"

# A machine that has never asked for the lists has none.
if ! apt-cache show linux-image-cloud-amd64 >/dev/null 2>&1; then
    apt-get update -qq
fi
kernel=$(apt-cache depends linux-image-cloud-amd64 | awk '/Depends: linux-image-/ { print $2; exit }')
version=$(apt-cache policy "$kernel" | awk '/Candidate:/ { print $2 }')
stamp="$kernel $version $(sha256sum "$self" | cut -c1-16)"
if [ -f stamp ] && [ "$(cat stamp)" = "$stamp" ]; then
    exit 0
fi
rm -rf stamp kernel initramfs vmlinuz initrd.img root.tar

echo "Unpacking $kernel $version"
mkdir kernel
(cd kernel && apt-get download -qq "$kernel" 2>/dev/null && dpkg-deb -x ./*.deb . && rm ./*.deb)
cp kernel/boot/vmlinuz-* vmlinuz
modules=$(echo kernel/lib/modules/*)

mkdir -p initramfs/bin initramfs/modules initramfs/proc initramfs/sys initramfs/dev initramfs/root
cp /bin/busybox initramfs/bin/busybox
# In the order in which they are loaded: what the others need comes first.
order="virtio_ring virtio virtio_pci_legacy_dev virtio_pci_modern_dev virtio_pci virtio_blk overlay loop"
for module in $order; do
    file=$(find "$modules" -name "$module.ko" | head -1)
    [ -z "$file" ] || cp "$file" initramfs/modules/
done
cat > initramfs/init <<INIT
#!/bin/busybox sh
/bin/busybox mount -t proc proc /proc
/bin/busybox mount -t sysfs sysfs /sys
/bin/busybox mount -t devtmpfs devtmpfs /dev
for module in $order; do
    [ ! -f /modules/\$module.ko ] || /bin/busybox insmod /modules/\$module.ko || echo "module \$module was not loaded"
done
/bin/busybox mount -t ext4 /dev/vda /root || { echo "no root disk"; /bin/busybox poweroff -f; }
/bin/busybox mount --move /dev /root/dev
exec /bin/busybox switch_root /root /sbin/vm-init
INIT
chmod 755 initramfs/init
(cd initramfs && find . | cpio --quiet -o -H newc | gzip -1) > initrd.img

echo "Making the Debian root"
. /etc/os-release
mmdebstrap --quiet --variant=minbase \
    --include=python3,python3-pip,python3-setuptools,python3-wheel,busybox-static,bash,perl,procps,iproute2,util-linux,ca-certificates,uidmap,e2fsprogs,nodejs,git,gcc,libc6-dev,golang-go,curl,vim-tiny,tmux,runc,crun \
    "$VERSION_CODENAME" root.tar
echo "$stamp" > stamp
