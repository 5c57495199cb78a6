# The cost of lvm's metadata archive over many creates and deletes.
N=${N:-40}
LVM=', archives: 20'
start_quarry
count() { ls /etc/lvm/archive | wc -l; }
size() { du -sk /etc/lvm/archive | cut -f1; }
pairs() { # N: mean ms of a create and of a delete
  local c=0 d=0 a b id
  for n in $(seq "$1"); do
    a=$(date +%s%N); id=$(create "case13-$n" --size 4Mi --block) || { fails "create number $n"; return; }; b=$(date +%s%N); c=$((c + b - a))
    quarry csi delete "$id" >/dev/null || fails "delete number $n"; d=$((d + $(date +%s%N) - b))
  done
  echo "$1 pairs: create $((c / $1 / 1000000)) ms, delete $((d / $1 / 1000000)) ms; $(count) files, $(size) KiB in /etc/lvm/archive"
}
echo "before: $(count) files"; pairs 10
before=$(count); pairs "$N"
grown=$(($(count) - before)); echo "$N pairs left $grown files"
[ "$grown" -lt $((N / 2)) ] || fails "every change leaves a file of the size of the group's metadata, kept for 30 days"
echo "--- with 20,000 more files there"
f=$(ls -S /etc/lvm/archive | head -n 1)
head -c 1500 "/etc/lvm/archive/$f" >/root/archived
perl -e 'local $/; open($f, "<", "/root/archived"); $data = <$f>;
for (10000 .. 29999) { open($o, ">", sprintf("/etc/lvm/archive/vg0_%05d-%d.vg", $_, $_)) or die; print $o $data; close $o }'
pairs 10
find /etc/lvm/archive -name 'vg0_[1-9]*' -delete
old=$(create case13-old --size 4Mi --block); old2=$(create case13-old2 --size 4Mi --block)
echo "--- a full /etc/lvm/archive"
mount -t tmpfs -o size=400k tmpfs /etc/lvm/archive; dd if=/dev/zero of=/etc/lvm/archive/full bs=1k status=none 2>/dev/null
said=$(quarry csi create case13-full --size 4Mi --block --param pool=fast 2>&1); echo "create: $said"
case $said in RESOURCE_EXHAUSTED*'no space for'*) fails "what is full is /etc/lvm/archive, not the pool, and capacity is still $(quarry csi capacity --param pool=fast | head -n 1)" ;; esac
said=$(quarry csi delete "$old" 2>&1) || fails "delete: $said"
quarry doctor --socket /run/quarry/view.sock | head -n 4
umount /etc/lvm/archive
echo "--- a read-only /etc/lvm"
mount -o bind /etc/lvm /etc/lvm && mount -o remount,bind,ro /etc/lvm
said=$(quarry csi create case13-ro --size 4Mi --block --param pool=fast 2>&1); echo "create: $said"; case $said in INTERNAL*) fails "create is INTERNAL" ;; esac
said=$(quarry csi delete "$old2" 2>&1) || fails "delete: $said"
umount /etc/lvm; for v in "$old" "$old2"; do quarry csi delete "$v"; done; lvs --noheadings vg0
exit $bad
