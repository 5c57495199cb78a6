# An operator keeps a snapshot of a volume; the claim is deleted.
start_quarry
id=$(create case05 --size 64Mi --fs ext4); stage=$(staging case05)
quarry csi stage "$id" --fs ext4 --staging-path "$stage" >/dev/null; echo precious >"$stage/data"; sync
quarry csi unstage "$id" --staging-path "$stage" >/dev/null
lvcreate -q -s -L 32M -n before-upgrade vg0/case05 >/dev/null; sleep 11
if said=$(quarry csi delete "$id" 2>&1); then
  lvs vg0/before-upgrade >/dev/null 2>&1 || fails "delete answers '$said' and has taken the snapshot vg0/before-upgrade, which is not Quarry's, with it"
else echo "delete: $said"; fi
lvremove -qy vg0/before-upgrade vg0/case05 >/dev/null 2>&1
echo "--- the same with the snapshot mounted"
id=$(create case05b --size 64Mi --fs ext4); stage=$(staging case05b)
quarry csi stage "$id" --fs ext4 --staging-path "$stage" >/dev/null; quarry csi unstage "$id" --staging-path "$stage" >/dev/null
lvcreate -q -s -L 32M -n snap-b vg0/case05b >/dev/null; mkdir -p /mnt/snap; mount -o ro /dev/vg0/snap-b /mnt/snap; sleep 11
said=$(quarry csi delete "$id" 2>&1); echo "delete: $said"
case $said in *snap-b*) ;; *) fails "the answer does not name the snapshot" ;; esac
lvs -a -o lv_name,origin,lv_attr vg0
umount /mnt/snap; lvremove -qy vg0/snap-b vg0/case05b >/dev/null 2>&1
exit $bad
