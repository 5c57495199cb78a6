# A tenant writes the image of a disk with a volume group vg0 onto his raw block volume, which then appears as
# a loop device, as kubelet creates it.
start_quarry
id=$(create case02blk --size 64Mi --block); ok=$(create case02ok --size 32Mi --fs ext4); stage=$(staging case02ok)
quarry csi stage "$ok" --fs ext4 --staging-path "$stage" >/dev/null; quarry csi unstage "$ok" --staging-path "$stage" >/dev/null
# The image is created elsewhere (here: with a separate configuration, so that this host's lvm is not
# involved).
image=/root/tenant.img; truncate -s 64M $image; mine=$(losetup -f --show $image)
mkdir -p /run/elsewhere
only="devices { dir=\"/run/elsewhere\" filter=[\"a|^$mine\$|\",\"r|.*|\"] scan=[\"/dev\"] hints=\"none\" }"
pvcreate -qy --config "$only" "$mine" >/dev/null; vgcreate -qy --config "$only" vg0 "$mine" >/dev/null
[ "${NESTED_LV:-1}" = 1 ] && lvcreate -qy -an -Zn -Wn -l 5 -n inner --config "$only" vg0 "$mine" >/dev/null 2>&1
sync; losetup -d "$mine"; udevadm settle; vgs -o vg_name,vg_uuid,pv_count
loop=$(losetup -f --show /dev/vg0/case02blk)
dd if=$image of="$loop" bs=1M conv=fsync status=none; rm $image; udevadm settle; sleep 12
echo "lvm: $(vgs 2>&1 | tr '\n' ';')"
look() {
  said=$(quarry csi capacity --param pool=fast 2>&1 | sed -n 1p); echo "capacity: $said"
  said=$(quarry csi create case02new --size 32Mi --fs ext4 --param pool=fast 2>&1) || fails "create of another's volume: $said"
  said=$(quarry csi stage "$ok" --fs ext4 --staging-path "$stage" 2>&1) || fails "stage of another's volume: $said"
  quarry csi unstage "$ok" --staging-path "$stage" >/dev/null
  quarry pools --socket /run/quarry/view.sock | tail -n 1
}
look
echo "--- the node plugin restarts"
kill "$(pidof quarry)"; while pidof quarry >/dev/null; do sleep 0.2; done; start_quarry; sleep 3; look
losetup -d "$loop"; udevadm settle; sleep 12; echo "--- without the loop device"; lvs -a vg0 2>&1; losetup -a
said=$(quarry csi delete "$id" 2>&1) || fails "delete of the raw volume: $said"
for n in case02new case02ok; do quarry csi delete "${id%case02blk}$n"; done
exit $bad
