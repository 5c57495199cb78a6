# A tenant creates a volume group (any name) on his raw block volume; the host's udev activates it, and the
# volume can no longer be deleted.
start_quarry
id=$(create case02b --size 64Mi --block)
loop=$(losetup -f --show /dev/vg0/case02b) # as kubelet does
pvcreate -qy "$loop" >/dev/null; vgcreate -qy tenantvg "$loop" >/dev/null; lvcreate -qy -l 5 -n inner tenantvg >/dev/null
vgchange -qan tenantvg >/dev/null; losetup -d "$loop"; udevadm settle
loop=$(losetup -f --show /dev/vg0/case02b); udevadm settle; sleep 3 # the pod starts anew …
losetup -d "$loop"; sleep 1                                          # … and ends; its claim is deleted
said=$(quarry csi delete "$id" 2>&1) || fails "delete: $said
held by: $(dmsetup ls | grep tenantvg), $(losetup -a)"
vgchange -qan tenantvg >/dev/null; quarry csi delete "$id" >/dev/null 2>&1
exit $bad
