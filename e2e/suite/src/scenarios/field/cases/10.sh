# A second disk appears that is a copy of one of the pool's disks (needs an empty third disk, /dev/vdd, as
# large as /dev/vdb).
start_quarry
a=$(create case10a --size 64Mi --fs ext4); b=$(create case10b --size 64Mi --fs ext4); sa=$(staging case10a); sb=$(staging case10b)
quarry csi stage "$a" --fs ext4 --staging-path "$sa" >/dev/null; echo active >"$sa/data"
quarry csi stage "$b" --fs ext4 --staging-path "$sb" >/dev/null; quarry csi unstage "$b" --staging-path "$sb" >/dev/null; lvchange -qan vg0/case10b
sync; dd if=/dev/vdb of=/dev/vdd bs=4M conv=fsync status=none
# As when the copy is plugged in: lvm forgets which disks it can skip.
rm -f /run/lvm/hints; udevadm trigger --settle --action=add /sys/block/vdd; sleep 12
pvs
said=$(quarry csi capacity --param pool=fast | head -n 1); echo "capacity: $said"
create_said=$(quarry csi create case10c --size 64Mi --fs ext4 --param pool=fast 2>&1); echo "create: $create_said"
case $create_said in RESOURCE_EXHAUSTED*) ;; *) fails "create is not answered by RESOURCE_EXHAUSTED" ;; esac
case $said in *': 0'*) ;; *) fails "room is offered that lvm cannot give out: $said" ;; esac
echo "ready: $(exec 3<>/dev/tcp/127.0.0.1/9808; printf 'GET /readyz HTTP/1.0\r\n\r\n' >&3; tail -n 1 <&3)"
quarry doctor --socket /run/quarry/view.sock | head -n 4
quarry pools --socket /run/quarry/view.sock | tail -n 1
echo "stage of the active one again: $(quarry csi stage "$a" --fs ext4 --staging-path "$sa" 2>&1)"
said=$(quarry csi stage "$b" --fs ext4 --staging-path "$sb" 2>&1); echo "stage of the inactive one: $said"
case $said in INTERNAL*) fails "stage of an inactive volume is INTERNAL" ;; esac
said=$(quarry csi delete "$b" 2>&1); echo "delete: $said"
case $said in INTERNAL*) fails "delete is INTERNAL" ;; esac
quarry disks --config /etc/quarry/pools.yaml
echo "--- cleaning up"
dd if=/dev/zero of=/dev/vdd bs=1M count=4 conv=fsync status=none; pvscan --cache >/dev/null 2>&1; udevadm settle; sleep 12
echo "capacity without the copy: $(quarry csi capacity --param pool=fast | head -n 1)"
quarry csi unstage "$a" --staging-path "$sa"; quarry csi unstage "$b" --staging-path "$sb"; for id in "$a" "$b"; do quarry csi delete "$id"; done
quarry csi list -o json | grep case10
exit $bad
