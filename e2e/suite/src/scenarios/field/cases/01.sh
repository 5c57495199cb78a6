# A tenant fills his mounted volume with one harmless pattern. The volume must still be staged afterwards.
start_quarry
for fs in ext4 xfs btrfs; do
  name=case01-$fs; id=$(create "$name" --size 300Mi --fs $fs); stage=$(staging "$name"); pod=$(target "$name")
  quarry csi stage "$id" --fs $fs --staging-path "$stage" >/dev/null
  quarry csi publish "$id" --fs $fs --staging-path "$stage" --target-path "$pod" >/dev/null
  # As the tenant: a file in which every sector starts with the letters JM, until the filesystem is full.
  perl -e '$block = ("JM" . "\0" x 510) x 2048; while (print $block) {}' >"$pod/data" 2>/dev/null; sync
  quarry csi unpublish "$id" --target-path "$pod" >/dev/null
  quarry csi unstage "$id" --staging-path "$stage" >/dev/null
  # It is deactivated soon after the unstage.
  for _ in $(seq 50); do [ -e /dev/vg0/$name ] || break; sleep 0.1; done; lvchange -qay vg0/$name
  dev=/dev/vg0/$name size=$(blockdev --getsize64 /dev/vg0/$name)
  last=$(dd if=$dev bs=512 skip=$((size / 512 - 1)) count=1 status=none | head -c 2 | tr -d '\0')
  if [ "$last" != JM ]; then
    echo "$fs: the file did not reach the last sector; putting the two bytes there as a file might"
    printf JM | dd of=$dev bs=1 seek=$((size - 512)) conv=notrunc,fsync status=none
  fi
  echo "$fs: blkid -p says $(blkid -p -o value -s TYPE $dev), only filesystems: $(blkid -p -u filesystem -o value -s TYPE $dev)"
  if answer=$(quarry csi stage "$id" --fs $fs --staging-path "$stage" 2>&1); then
    echo "$fs: staged, right"; quarry csi unstage "$id" --staging-path "$stage" >/dev/null
  else fails "$fs: its filesystem is whole, and stage refuses: $answer"; fi
  quarry csi delete "$id" >/dev/null
done
exit $bad
