# Bad sectors at the place of a new volume: the create fails permanently. What is left when the claim is
# deleted?
start_quarry
vgreduce -q vg0 /dev/vdc >/dev/null && pvremove -q /dev/vdc >/dev/null || exit 2
sectors=$(blockdev --getsz /dev/vdc)
# The first 16 MiB (labels, metadata, some extents) and the last 4 MiB are good; between them every access fails.
# It starts 1 MiB into the disk, so that lvm does not see the same label twice.
size=$((sectors - 2048)); end=$((size - 8192))
printf '0 32768 linear /dev/vdc 2048\n32768 %s error\n%s 8192 linear /dev/vdc %s\n' $((end - 32768)) $end $((end + 2048)) | dmsetup create bad
pvcreate -qy /dev/mapper/bad >/dev/null; vgextend -q vg0 /dev/mapper/bad >/dev/null
lvcreate -qyn filler -l 100%PVS vg0 /dev/vdb >/dev/null
sleep 11; before=$(vgs --noheadings --units m -o vg_free vg0)
for kind in "--fs ext4" --block; do
  said=$(quarry csi create "case12${kind##*[- ]}" --size 200Mi $kind --param pool=fast 2>&1); echo "create $kind: $said"
done
sleep 2
# external-provisioner stops after INTERNAL once the claim is deleted, and never learned an ID to delete.
left=$(lvs --noheadings -o lv_name,lv_size,lv_tags vg0 | grep case12)
[ -z "$left" ] || fails "free before:$before, now:$(vgs --noheadings --units m -o vg_free vg0); left behind:
$left"
quarry volumes --socket /run/quarry/view.sock
echo "--- cleaning up"
for id in $(quarry csi list -o json | sed -n 's/.*"volume_id": *"\([^"]*case12[^"]*\)".*/\1/p'); do quarry csi delete "$id"; done
lvremove -qy vg0/filler >/dev/null; vgreduce -q vg0 /dev/mapper/bad >/dev/null; pvremove -q /dev/mapper/bad >/dev/null
dmsetup remove bad; pvcreate -qy /dev/vdc >/dev/null; vgextend -q vg0 /dev/vdc >/dev/null
exit $bad
