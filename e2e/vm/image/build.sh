#!/bin/sh
# Builds the guest's root file system and takes its kernel from Debian's packages.
#
#   build.sh OUT SUITE ARCH KERNEL_PACKAGE PACKAGES [MIRROR]
#
# OUT gets: root.ext4 (sparse), vmlinuz, boot/ (busybox, modules.dep, modules.builtin and the modules) and packages.txt, which
# records every package and version. Runs as root or as a plain user; nothing of the host is touched but OUT and TMPDIR.
set -eu

out=$1 suite=$2 arch=$3 kernel=$4 packages=$5 mirror=${6:-}
work=$(mktemp -d "$out/work.XXXXXX")
trap 'rm -rf "$work"' EXIT

# The kernel comes without its package's scripts: they would build an initramfs that nobody reads, for half a minute.
# The meta-package names the real one. This runs as a string, not as a file: under mmdebstrap's user namespace it is
# another user's, who may not look into our folders.
kernel_hook='
set -eu
root=$1
export APT_CONFIG="$MMDEBSTRAP_APT_CONFIG"
mkdir "$root/kernel"
cd "$root/kernel"
# Where apt runs as root it would drop to _apt, who may not write here.
package=$(apt-cache depends "$KERNEL_PACKAGE" | sed -n "s/^ *Depends: //p" | head -n 1)
apt-get -o APT::Sandbox::User=root download "$package"
dpkg-deb -x linux-image-*.deb files
ls linux-image-*.deb >package
rm linux-image-*.deb
# Newer kernels come under /usr, their modules compressed: to unpack them is dear in an emulated guest, and cheap here.
[ -d files/lib ] || mv files/usr/lib files/lib
find files/lib/modules -name "*.ko.xz" -exec "$root/bin/busybox" unxz {} +
version=$(ls files/lib/modules)
# Drivers of hardware that no virtual node has.
for unused in net/wireless net/bluetooth drivers/net/ethernet drivers/gpu drivers/infiniband drivers/media sound; do
    rm -rf "files/lib/modules/$version/kernel/$unused"
done
chroot "$root" depmod -b /kernel/files "$version"
'
export KERNEL_PACKAGE="$kernel"

mmdebstrap --variant=essential --architectures="$arch" --include="$packages" \
    --aptopt='Acquire::Languages "none"' --aptopt='APT::Install-Recommends "false"' --aptopt='Acquire::Retries "3"' \
    --dpkgopt='force-unsafe-io' \
    --dpkgopt='path-exclude=/usr/share/doc/*' --dpkgopt='path-exclude=/usr/share/man/*' \
    --dpkgopt='path-exclude=/usr/share/locale/*' --dpkgopt='path-exclude=/usr/share/info/*' \
    --customize-hook="$kernel_hook" \
    "$suite" "$work/root.tar" ${mirror:+"$mirror"}

cat >"$work/pack" <<'PACK'
#!/bin/sh
set -eu
out=$1 work=$2
root=$work/root
mkdir "$root"
tar -C "$root" --numeric-owner -xf "$work/root.tar" --exclude='./dev/*'
rm "$work/root.tar"

cat "$root/kernel/package" >"$out/packages.txt"
dpkg-query --admindir="$root/var/lib/dpkg" -W >>"$out/packages.txt"
mv "$root/kernel/files" "$work/kernel"
rm -r "$root/kernel"
version=$(ls "$work/kernel/lib/modules")
modules=$work/kernel/lib/modules/$version
mkdir -p "$root/usr/lib/modules"
cp -a "$modules" "$root/usr/lib/modules/"

mkdir "$out/boot"
cp "$root/bin/busybox" "$out/boot/busybox"
cp "$modules/modules.dep" "$modules/modules.builtin" "$out/boot/"
cp -a "$modules/kernel" "$out/boot/kernel"
cp "$work/kernel/boot/vmlinuz-$version" "$out/vmlinuz"
chmod -R u+rwX,go+rX "$out/boot" "$out/vmlinuz"

# udev would assemble the arrays whose signatures some tests write. A test that wants that copies the rules back.
mkdir "$root/usr/share/mdadm-rules"
mv "$root"/usr/lib/udev/rules.d/*-md-raid-*.rules "$root/usr/share/mdadm-rules/"

mkdir -p "$root/var/lib/kubelet" "$root/dev" "$root/proc" "$root/sys" "$root/run" "$root/data"
: >"$root/etc/machine-id"
rm -rf "$root"/var/cache/apt/* "$root"/var/lib/apt/lists/* "$root"/var/log/*

# With a journal: what the guest wrote to its root and synced must outlive a power cut.
truncate -s 2G "$out/root.ext4"
mke2fs -q -F -t ext4 -L quarry-root -J size=16 -m 0 -E lazy_itable_init=1,lazy_journal_init=1,nodiscard \
    -d "$root" "$out/root.ext4"
PACK
chmod +x "$work/pack"
if [ "$(id -u)" = 0 ]; then "$work/pack" "$out" "$work"; else fakeroot "$work/pack" "$out" "$work"; fi
