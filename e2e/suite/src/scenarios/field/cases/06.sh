# Two pools; the disk of one of them hangs. Is the other one affected? And what does each stats call leave
# behind?
kill "$(pidof quarry)" 2>/dev/null; while pidof quarry >/dev/null; do sleep 0.2; done
mkdir -p /etc/quarry /run/quarry
truncate -s 700M /var/tmp/hang.img; loop=$(losetup -f --show /var/tmp/hang.img); size=$(blockdev --getsz "$loop")
# 1 MiB into it, so that lvm does not see the same label twice.
dmsetup create hang --table "0 $((size - 2048)) linear $loop 2048"; vgcreate -qy vgh /dev/mapper/hang >/dev/null
printf 'pools:\n  - name: fast\n    lvm: {volumeGroup: vg0}\n  - name: hanging\n    lvm: {volumeGroup: vgh}\n' >/etc/quarry/pools.yaml
setsid quarry standalone --config /etc/quarry/pools.yaml --http 127.0.0.1:9808 --view /run/quarry/view.sock >>/var/log/quarry.log 2>&1 </dev/null &
for _ in $(seq 100); do quarry csi identity >/dev/null 2>&1 && break; sleep 0.1; done
h=$(quarry csi create case06h --param pool=hanging --size 140Mi --fs btrfs -o json | sed -n 's/.*"volume_id": *"\([^"]*\)".*/\1/p'); sh=$(staging case06h)
quarry csi stage "$h" --fs btrfs --staging-path "$sh" >/dev/null
b=$(create case06b --size 32Mi --fs ext4); sb=$(staging case06b)
quarry csi stage "$b" --fs ext4 --staging-path "$sb" >/dev/null; quarry csi unstage "$b" --staging-path "$sb" >/dev/null; sync; sleep 6
dmsetup suspend --noflush --nolockfs hang
(dd if=/dev/urandom of="$sh/data" bs=1M count=4 conv=fsync status=none &)
sleep 2; p=$(pidof quarry)
waiting() { cat /proc/$p/task/*/stat | awk '$3 == "D"' | wc -l; }
for n in 10 20 30 40; do
  for _ in $(seq 10); do (quarry csi stats "$h" --path "$sh" --timeout 5 >/dev/null 2>&1 &); done; sleep 9
  echo "after $n stats calls, all timed out: $(waiting) threads of quarry wait for the disk"
done
[ "$(waiting)" -lt 10 ] || fails "each call for the hanging volume leaves a thread behind"
quick() { # WHAT COMMAND…
  local what=$1 began=$SECONDS; shift
  said=$("$@" --timeout 20 2>&1) && echo "$what: right, $((SECONDS - began)) s" || fails "$what, which does not use that disk: $said"
}
quick "stage in the other pool" quarry csi stage "$b" --fs ext4 --staging-path "$sb"
quick "stats in the other pool" quarry csi stats "$b" --path "$sb"
quick "unstage in the other pool" quarry csi unstage "$b" --staging-path "$sb"
quick "create in the other pool" quarry csi create case06n --param pool=fast --size 32Mi --fs ext4
quick "delete in the other pool" quarry csi delete "$b"
echo "ready: $(exec 3<>/dev/tcp/127.0.0.1/9808; printf 'GET /readyz HTTP/1.0\r\n\r\n' >&3; sed -n '/^\r$/,$p' <&3 | tail -n +2)"
echo "capacity of the other pool: $(quarry csi capacity --param pool=fast | head -n 1)"
ps -eo etimes,wchan:20,args | grep '[l]vm lv' | sed 's/--config.*buffered=1/…/'
dmsetup resume hang; sleep 5
quarry csi unstage "$h" --staging-path "$sh" >/dev/null
for id in $(quarry csi list -o json | sed -n 's/.*"volume_id": *"\([^"]*case06[^"]*\)".*/\1/p'); do quarry csi delete "$id"; done
kill "$p"; while pidof quarry >/dev/null; do sleep 0.2; done
vgremove -qf vgh >/dev/null; dmsetup remove hang; losetup -d "$loop"; rm -f /var/tmp/hang.img /etc/quarry/pools.yaml
exit $bad
