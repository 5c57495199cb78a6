#!/busybox sh
# First process of a virtual node: finds the root file system, hands it the agent, and switches over.
export PATH=/bin
/busybox mkdir -p /bin /proc /sys /dev /root
/busybox --install -s /bin
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs dev /dev
# The host looks for this line to know that a guest really runs under the accelerator it tries.
echo "quarry-vm: initrd" >/dev/console
case " $(cat /proc/cmdline) " in *" quarry.probe "*) poweroff -f ;; esac

while read -r module; do insmod "/modules/$module" || echo "quarry-vm: cannot load $module" >/dev/console; done </modules/order

tries=0
until root=$(findfs LABEL=quarry-root 2>/dev/null); do
    tries=$((tries + 1))
    if [ $tries -gt 500 ]; then
        echo "quarry-vm: no root file system" >/dev/console
        poweroff -f
    fi
    usleep 20000
done
mount -t ext4 "$root" /root || { echo "quarry-vm: cannot mount $root" >/dev/console; poweroff -f; }
mount -t tmpfs -o mode=755 tmpfs /root/run
cp -r /quarry-vm /root/run/
mount --move /proc /root/proc
mount --move /sys /root/sys
mount --move /dev /root/dev
exec switch_root /root /run/quarry-vm/guest-init
