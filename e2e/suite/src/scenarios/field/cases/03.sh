# An operator renames the logical volume of an unstaged, used volume. What do the calls report?
start_quarry
id=$(create case03 --size 64Mi --fs ext4); stage=$(staging case03)
quarry csi stage "$id" --fs ext4 --staging-path "$stage" >/dev/null
echo precious >"$stage/data"; sync
quarry csi unstage "$id" --staging-path "$stage" >/dev/null
lvrename -q vg0 case03 case03-parked >/dev/null; sleep 11
said=$(quarry csi stage "$id" --fs ext4 --staging-path "$stage" 2>&1)
case $said in NOT_FOUND*) fails "stage of a volume that exists under another name: $said" ;; *) echo "stage: $said" ;; esac
quarry csi unstage "$id" --staging-path "$stage" >/dev/null
again=$(create case03 --size 64Mi --fs ext4)
[ "$again" = "$id" ] || fails "the same create answers another volume now: $again instead of $id"
if said=$(quarry csi delete "$id" 2>&1); then
  left=$(lvs --noheadings -o lv_name,lv_tags vg0 | grep n=case03/)
  [ -z "$left" ] || fails "delete says '$said', and the volume with its data is still there: $left"
else echo "delete: $said"; fi
echo "--- the same while it is mounted"
id2=$(create case03b --size 64Mi --fs ext4); stage=$(staging case03b)
quarry csi stage "$id2" --fs ext4 --staging-path "$stage" >/dev/null
lvrename -q vg0 case03b case03b-parked >/dev/null; sleep 11
if said=$(quarry csi delete "$id2" 2>&1); then fails "delete of a volume that is mounted at $stage: $said"; fi
quarry csi unstage "$id2" --staging-path "$stage" >/dev/null
lvremove -qy vg0/case03-parked vg0/case03b-parked >/dev/null 2>&1
exit $bad
