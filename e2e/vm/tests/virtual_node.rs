//! Virtual nodes themselves: the properties that the tests of Quarry rely on.
//!
//! They boot machines, so they run only on request: `cargo test -p quarry-vm -- --ignored`.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use anyhow::Result;
use quarry_vm::{Bus, Command, Config, Disk, Event, Fault, HOST, Network, PowerCut, Process, Throttle, Vm};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const GIB: u64 = 1 << 30;

fn took(what: &str, begin: Instant) {
    println!("{what}: {:.0} ms", begin.elapsed().as_secs_f64() * 1000.0);
}

async fn node(name: &str) -> Result<Vm> {
    let begin = Instant::now();
    let vm = Vm::start(Config::new(name).disk(Disk::new("d1", GIB)).disk(Disk::new("d2", GIB))).await?;
    took("node with two disks", begin);
    Ok(vm)
}

#[tokio::test]
#[ignore = "boots a virtual machine"]
async fn commands_and_files() -> Result<()> {
    let vm = node("commands").await?;
    assert_eq!(vm.check(["hostname"]).await?, "commands");

    let begin = Instant::now();
    for _ in 0..20 {
        vm.wait_paths(vec!["/".into()], true, Duration::ZERO).await?;
    }
    took("twenty words with the agent", begin);
    let begin = Instant::now();
    for _ in 0..20 {
        vm.check(["true"]).await?;
    }
    took("twenty commands", begin);

    let output = vm.exec(["sh", "-c", "echo out; echo err >&2; exit 3"]).await?;
    assert_eq!((output.text().as_str(), output.error_text().as_str(), output.exit.code), ("out\n", "err\n", Some(3)));
    assert!(vm.exec(["no-such-program"]).await.unwrap_err().to_string().contains("no-such-program"));
    assert_eq!(vm.check(["cat"]).await?, "", "a command's input is empty");
    assert_eq!(vm.check(Command::new(["cat"]).stdin("given")).await?, "given");
    let command = Command::new(["sh", "-c", "echo $A $PWD"]).env("A", "b").cwd("/usr");
    assert_eq!(vm.check(command).await?, "b /usr");

    let mut lines = Vec::new();
    vm.run(Command::sh("for i in 1 2 3; do echo $i; sleep 0.1; done"), |event| {
        if let Event::Stdout(bytes) = event {
            lines.push(bytes.clone());
        }
    })
    .await?;
    assert_eq!(lines, [b"1\n", b"2\n", b"3\n"], "output streams");

    let begin = Instant::now();
    let error = vm.exec(Command::new(["sleep", "98765"]).timeout(Duration::from_secs(1))).await.unwrap_err();
    assert!(error.to_string().contains("did not end within"), "{error}");
    assert!(begin.elapsed() < Duration::from_secs(5));
    vm.sh("for i in $(seq 50); do pgrep -x sleep || exit 0; sleep 0.1; done; exit 1").await?;

    let mut process = vm.spawn(["sleep", "1000"]).await?;
    process.signal(15).await?;
    assert_eq!(process.wait().await?.exit.signal, Some(15));

    // A command whose child keeps running with its output open ends when it ends; the child keeps running.
    let begin = Instant::now();
    vm.sh("sleep 5 & exit 0").await?;
    assert!(begin.elapsed() < Duration::from_secs(4));
    vm.check(["pgrep", "sleep"]).await?;

    let bytes: Vec<u8> = (0..3_000_000_u32).map(|i| (i * 7 + i / 256) as u8).collect();
    vm.write("/data/some where/file", &bytes, 0o640).await?;
    assert_eq!(vm.check(["stat", "-c", "%a %s", "/data/some where/file"]).await?, "640 3000000");
    assert!(vm.read("/data/some where/file").await? == bytes);
    assert!(vm.read("/no/such/file").await.is_err());
    assert!(vm.write("/proc/no/such", b"", 0o600).await.is_err());

    assert!(vm.connect("/run/none.sock").await.is_err());
    vm.shutdown().await
}

#[tokio::test]
#[ignore = "boots a virtual machine"]
async fn lvm_works_as_on_a_host() -> Result<()> {
    let vm = node("lvm").await?;
    let all: [(&str, &str); 7] = [
        ("vgcreate", "vgcreate pool /dev/disk/by-id/virtio-d1 /dev/disk/by-id/virtio-d2"),
        ("lvcreate", "lvcreate -Wn -Zn -L 64M -n linear pool"),
        ("lvcreate raid1", "lvcreate --type raid1 -m 1 -L 64M -n mirror pool"),
        ("lvcreate striped", "lvcreate -Wy --yes -i 2 -L 400M -n striped pool"),
        ("mkfs.ext4, mount", "mkfs.ext4 -q /dev/pool/linear && mkdir -p /mnt/a && mount /dev/pool/linear /mnt/a"),
        ("mkfs.xfs, mount", "mkfs.xfs -q /dev/pool/striped && mkdir -p /mnt/b && mount /dev/pool/striped /mnt/b"),
        ("lvs", "lvs -o +tags,devices"),
    ];
    for (name, script) in all {
        let begin = Instant::now();
        vm.sh(script).await?;
        took(name, begin);
    }
    vm.sh(
        "mkfs.btrfs -q -f /dev/pool/mirror 2>&1 || true; lvcreate -qq -L 160M -n b pool && mkfs.btrfs -q /dev/pool/b",
    )
    .await?;
    vm.sh("mkdir -p /mnt/c && mount /dev/pool/b /mnt/c && test -e /dev/disk/by-id/dm-name-pool-b").await?;
    let propagation = vm.check(["findmnt", "-no", "PROPAGATION", "-T", "/var/lib/kubelet"]).await?;
    assert_eq!(propagation, "shared");
    vm.stop_udev().await?;
    vm.sh("lvcreate -qq -Wn -Zn -L 4M -n c pool --config 'activation{udev_sync=0 udev_rules=0}'").await?;
    vm.start_udev().await?;
    vm.sh("lvcreate -qq -Wn -Zn -L 4M -n d pool").await?;
    vm.shutdown().await
}

#[tokio::test]
#[ignore = "boots a virtual machine"]
async fn a_power_cut_loses_unflushed_writes() -> Result<()> {
    let mut vm = node("cut").await?;
    vm.sh("vgcreate -qq pool /dev/disk/by-id/virtio-d1 && lvcreate -qq -Wn -Zn -L 200M -n a pool").await?;
    vm.sh("mkfs.ext4 -q /dev/pool/a && mkdir -p /mnt/a && mount /dev/pool/a /mnt/a").await?;
    vm.sh("echo kept >/mnt/a/synced && sync /mnt/a/synced && sync /mnt/a && echo lost >/mnt/a/unsynced").await?;
    // The raw disk: a first write that is flushed, and a second one in the same place that reaches the disk, not its
    // platter.
    let disk = "/dev/disk/by-id/virtio-d2";
    let write = |text: &str, flags: &str| {
        format!("printf %-4096s {text} | dd of={disk} bs=4096 count=1 iflag=fullblock oflag=direct {flags} status=none")
    };
    vm.sh(write("first", "conv=fsync")).await?;
    vm.sh(write("second", "")).await?;
    let read = format!("dd if={disk} bs=4096 count=1 iflag=direct status=none | cut -d' ' -f1");
    assert_eq!(vm.sh(&read).await?, "second");
    vm.sh("echo here >/etc/lvm/mark && sync /etc/lvm/mark").await?;

    vm.power_cut().await?;
    assert!(vm.exec(["true"]).await.is_err());
    let begin = Instant::now();
    vm.boot_again().await?;
    took("cold boot with a volume group", begin);

    assert_eq!(vm.sh(&read).await?, "first");
    assert_eq!(vm.check(["cat", "/etc/lvm/mark"]).await?, "here");
    assert_eq!(vm.check(["hostname"]).await?, "cut");
    vm.sh("for i in $(seq 100); do test -e /dev/pool/a && exit; sleep 0.1; done; exit 1").await?;
    vm.sh("mkdir -p /mnt/a && mount /dev/pool/a /mnt/a && test ! -s /mnt/a/unsynced").await?;
    assert_eq!(vm.check(["cat", "/mnt/a/synced"]).await?, "kept");

    // Of two hundred scattered blocks some survive such a cut, and some do not.
    vm.sh("umount /mnt/a; vgchange -qq -an pool; busybox sync").await?;
    let scatter = format!(
        "for i in $(seq 1 2 400); do printf %-4096s x | dd of={disk} bs=4096 seek=$i count=1 iflag=fullblock oflag=direct \
         status=none; done"
    );
    vm.sh(scatter).await?;
    vm.power_cut_with(PowerCut::LoseSome(7)).await?;
    vm.boot_again().await?;
    let survived: usize =
        vm.sh(format!("dd if={disk} bs=4096 count=401 status=none | tr -cd x | wc -c")).await?.parse()?;
    assert!((50..150).contains(&survived), "{survived} of 200 survived");

    vm.sh("echo kept >/root/file").await?;
    vm.power_off().await?;
    vm.boot_again().await?;
    assert_eq!(vm.check(["cat", "/root/file"]).await?, "kept");
    vm.shutdown().await
}

#[tokio::test]
#[ignore = "boots a virtual machine"]
async fn disks_of_all_kinds_come_and_go_and_fail() -> Result<()> {
    let mut vm = node("disks").await?;
    let kinds = vec![
        Disk::new("n1", GIB).bus(Bus::Nvme).block_size(4096),
        Disk::new("s1", GIB).bus(Bus::Scsi),
        Disk::new("s2", GIB).bus(Bus::Scsi).block_size(4096),
        Disk::new("huge", 1 << 40),
    ];
    for disk in &kinds {
        vm.add_disks(vec![disk.clone()]).await?;
        let sizes = vm.check(["blockdev", "--getsize64", "--getss", &disk.path()]).await?;
        assert_eq!(sizes, format!("{}\n{}", disk.size, disk.block_size));
        vm.sh(format!("echo {0} | dd of={1} status=none && sync {1}", disk.serial, disk.path())).await?;
    }
    for disk in &kinds {
        vm.unplug(&disk.serial).await?;
        assert!(vm.unplug(&disk.serial).await.is_err());
        vm.replug(&disk.serial).await?;
        assert_eq!(vm.sh(format!("head -c {} {}", disk.serial.len(), disk.path())).await?, disk.serial);
    }
    assert!(vm.unplug("none").await.is_err());

    // A disk of a tebibyte is zeroed without filling the host, and not by a discard.
    let huge = "/dev/disk/by-id/virtio-huge";
    vm.sh(format!("blkdiscard {huge}")).await?;
    assert_eq!(vm.sh(format!("head -c 4 {huge}")).await?, "huge", "a discard is not a wipe");
    let begin = Instant::now();
    vm.check(["blkdiscard", "--zeroout", huge]).await?;
    took("zeroing a tebibyte", begin);
    assert_eq!(vm.sh(format!("head -c 4096 {huge} | tr -d '\\0' | wc -c")).await?, "0");

    vm.set_throttle("huge", Throttle { bytes_per_second: 10 << 30, ..Throttle::default() }).await?;
    let begin = Instant::now();
    vm.check(["blkdiscard", "--zeroout", "--length", "30G", huge]).await?;
    assert!(begin.elapsed() > Duration::from_secs(1), "zeroing knows no limit: {:?}", begin.elapsed());
    took("zeroing 30 GiB at 10 GiB a second", begin);

    vm.set_throttle("d1", Throttle { bytes_per_second: 1 << 20, ..Throttle::default() }).await?;
    let write = "dd if=/dev/urandom of=/dev/disk/by-id/virtio-d1 bs=1M count=3 oflag=direct status=none";
    let begin = Instant::now();
    vm.sh(write).await?;
    assert!(begin.elapsed() > Duration::from_secs(1), "{:?}", begin.elapsed());
    vm.set_throttle("d1", Throttle::default()).await?;

    vm.set_fault("d1", Fault::Errors)?;
    assert!(vm.sh(write).await.is_err());
    vm.set_fault("d1", Fault::Hang)?;
    let guest = vm.guest();
    let hung = tokio::spawn(async move { guest.sh(write).await });
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(!hung.is_finished());
    vm.set_fault("d1", Fault::None)?;
    hung.await??;

    // A machine with a hung disk can still lose its power.
    vm.set_fault("d2", Fault::Hang)?;
    let guest = vm.guest();
    let lost =
        tokio::spawn(
            async move { guest.sh("dd if=/dev/zero of=/dev/disk/by-id/virtio-d2 count=1 oflag=direct").await },
        );
    tokio::time::sleep(Duration::from_millis(500)).await;
    vm.power_cut().await?;
    assert!(lost.await?.is_err());
    Ok(())
}

#[tokio::test]
#[ignore = "boots virtual machines"]
async fn two_nodes_are_two_machines() -> Result<()> {
    let (one, two) = tokio::try_join!(node("one"), node("two"))?;
    let script = "cat /etc/machine-id; cat /proc/sys/kernel/random/uuid; hostname; date +%s";
    let (first, second) = (one.sh(script).await?, two.sh(script).await?);
    let pairs: Vec<_> = first.lines().zip(second.lines()).collect();
    for (ours, theirs) in &pairs[..3] {
        assert_ne!(ours, theirs);
    }
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?.as_secs();
    let guest: u64 = pairs[3].0.parse()?;
    assert!(now.abs_diff(guest) < 5, "the guest's clock is {guest}, the host's {now}");
    Ok(())
}

#[tokio::test]
#[ignore = "boots a virtual machine"]
async fn a_socket_in_the_guest_is_reached() -> Result<()> {
    let vm = node("socket").await?;
    let server = "use IO::Socket::UNIX; my $listener = IO::Socket::UNIX->new(Local => '/run/echo.sock', Listen => 1); \
                  my $client = $listener->accept; my $line = <$client>; print $client \"got $line\";";
    let _server = vm.spawn(["perl", "-e", server]).await?;
    vm.wait_paths(vec!["/run/echo.sock".into()], true, Duration::from_secs(10)).await?;
    let mut stream = vm.connect("/run/echo.sock").await?;
    stream.write_all(b"hello\n").await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    assert_eq!(answer, "got hello\n");
    Ok(())
}

/// What two addresses of a network say to each other.
async fn reaches(from: &Vm, to: Ipv4Addr) -> Result<bool> {
    Ok(from.exec(["busybox", "ping", "-c", "1", "-W", "1", &to.to_string()]).await?.exit.success())
}

/// Waits until one node reaches an address, or no longer does.
async fn wait_reaches(from: &Vm, to: Ipv4Addr, wanted: bool) -> Result<()> {
    let begin = Instant::now();
    while reaches(from, to).await? != wanted {
        anyhow::ensure!(begin.elapsed() < Duration::from_secs(60), "{to} reached: {}, for a minute", !wanted);
    }
    Ok(())
}

/// A server that answers each connection with the node's name and the line it receives.
async fn serve_name(vm: &Vm) -> Result<Process> {
    let server = "use IO::Socket::INET; use Sys::Hostname; $| = 1; $SIG{CHLD} = 'IGNORE'; \
                  my $l = IO::Socket::INET->new(LocalPort => 5000, Listen => 9, ReuseAddr => 1) or die; print \"up\\n\"; \
                  while (1) { my $c = $l->accept or next; \
                  if (!fork) { my $line = <$c>; print $c hostname, ' got ', $line; exit } close $c }";
    let mut process = vm.spawn(["perl", "-e", server]).await?;
    anyhow::ensure!(process.next().await? == Event::Stdout(b"up\n".to_vec()));
    Ok(process)
}

async fn ask(address: SocketAddr) -> Result<String> {
    let mut stream = TcpStream::connect(address).await?;
    stream.write_all(b"hello\n").await?;
    let mut answer = String::new();
    tokio::time::timeout(Duration::from_secs(60), stream.read_to_string(&mut answer)).await??;
    Ok(answer)
}

#[tokio::test]
#[ignore = "boots virtual machines"]
async fn nodes_on_a_network_meet_part_and_swap_addresses() -> Result<()> {
    let network = Network::new();
    let (one_address, two_address) = (Network::address(1), Network::address(2));
    let begin = Instant::now();
    let (mut one, mut two) = tokio::try_join!(
        Vm::start(Config::new("one").network(&network, 1)),
        Vm::start(Config::new("two").network(&network, 2))
    )?;
    took("two nodes on a network", begin);
    assert_eq!((one.address(), two.address()), (Some(one_address), Some(two_address)));
    wait_reaches(&one, two_address, true).await?;
    wait_reaches(&two, one_address, true).await?;
    assert!(!reaches(&one, Network::address(3)).await?);

    // By TCP, from a node, and from the host by way of a node. An idle connection outlives a short cut.
    let (_one_serves, _two_serves) = (serve_name(&one).await?, serve_name(&two).await?);
    let from_one = "exec 3<>/dev/tcp/10.77.0.2/5000; echo hello >&3; cat <&3";
    assert_eq!(one.check(["bash", "-ec", from_one]).await?, "two got hello");
    let by_network = one.forward(SocketAddr::from((two_address, 5000))).await?;
    let direct = two.forward(SocketAddr::from((Ipv4Addr::LOCALHOST, 5000))).await?;
    assert_eq!(ask(by_network.local()).await?, "two got hello\n");
    assert_eq!(ask(direct.local()).await?, "two got hello\n");
    assert!(one.connect_tcp(SocketAddr::from((two_address, 5001))).await.is_err(), "nothing listens there");
    let mut idle = one.connect_tcp(SocketAddr::from((two_address, 5000))).await?;
    // A connection whose last handshake packet falls into the cut is not established: the other end forgets
    // it.
    let established = "ss -Htn state established '( sport = :5000 )' | grep -q 10.77.0.1:";
    two.sh(format!("until {established}; do sleep 0.05; done")).await?;

    // A link that is cut: commands work, and the host's own way in, and nothing else.
    two.link(false).await?;
    assert!(!reaches(&one, two_address).await? && !reaches(&two, one_address).await?);
    assert_eq!(two.check(["hostname"]).await?, "two");
    assert_eq!(ask(direct.local()).await?, "two got hello\n");
    let asked = tokio::time::timeout(Duration::from_secs(2), ask(by_network.local())).await;
    assert!(!matches!(asked, Ok(Ok(answer)) if answer.contains("two")), "received over a link that is cut");
    two.link(true).await?;
    wait_reaches(&one, two_address, true).await?;
    assert_eq!(ask(by_network.local()).await?, "two got hello\n");
    idle.write_all(b"again\n").await?;
    let mut answer = String::new();
    tokio::time::timeout(Duration::from_secs(60), idle.read_to_string(&mut answer)).await??;
    assert_eq!(answer, "two got again\n");

    // The address leads to the other node at once: no neighbour remembers the old one.
    one.swap_addresses(&mut two).await?;
    assert_eq!((one.address(), two.address()), (Some(two_address), Some(one_address)));
    assert_eq!(two.check(["bash", "-ec", from_one]).await?, "one got hello");
    wait_reaches(&one, one_address, true).await?;
    one.swap_addresses(&mut two).await?;
    assert_eq!(one.check(["bash", "-ec", from_one]).await?, "two got hello");

    // A program of the host, from inside a node; another port of the host's is the host's word.
    let listener = tokio::net::TcpListener::bind(("127.0.0.1", 0)).await?;
    let port = listener.local_addr()?.port();
    let accept = async { listener.accept().await?.0.write_all(b"the host\n").await };
    let call = format!("exec 3<>/dev/tcp/{HOST}/{port}; cat <&3");
    let (accepted, received) =
        tokio::join!(tokio::time::timeout(Duration::from_secs(60), accept), one.check(["bash", "-ec", &call]));
    accepted??;
    assert_eq!(received?, "the host");

    // After a real boot the node is where it was, and its link as it was.
    two.link(false).await?;
    two.power_cut().await?;
    two.boot_again().await?;
    assert!(!reaches(&one, two_address).await?);
    two.link(true).await?;
    wait_reaches(&one, two_address, true).await?;

    two.move_clock(-3600).await?;
    let difference: i64 = one.sh("date +%s").await?.parse::<i64>()? - two.sh("date +%s").await?.parse::<i64>()?;
    assert!((3590..3660).contains(&difference), "the clock was moved by {difference} s");

    let mut alone = Vm::start(Config::new("alone")).await?;
    assert!(alone.link(false).await.unwrap_err().to_string().contains("alone is on no network"));
    assert_eq!(alone.sh("ls /sys/class/net | wc -l").await?, one.sh("ls /sys/class/net | grep -vc lan0").await?);
    let call = format!("exec 3<>/dev/tcp/{HOST}/{port}");
    assert!(!alone.exec(["timeout", "5", "bash", "-ec", &call]).await?.exit.success(), "it leads nowhere");
    Ok(())
}

#[tokio::test]
#[ignore = "boots virtual machines"]
async fn disks_move_to_another_node() -> Result<()> {
    let (mut one, mut two) = tokio::try_join!(node("one"), Vm::start(Config::new("two")))?;
    one.sh("vgcreate -qq pool /dev/disk/by-id/virtio-d1 && lvcreate -qq -Wn -Zn -L 4M -n a pool").await?;
    let identity = one.sh("vgs --noheadings -o vg_uuid pool").await?;

    // From one machine that runs into another.
    one.sh("vgchange -qq -an pool").await?;
    let moved = one.take_disk("d1").await?;
    assert!(one.take_disk("d1").await.unwrap_err().to_string().contains("it has: d2"));
    two.insert_disk(moved).await?;
    assert_eq!(two.sh("vgs --noheadings -o vg_uuid pool").await?, identity);
    two.sh("for i in $(seq 100); do test -e /dev/pool/a && exit; sleep 0.1; done; exit 1").await?;

    // The same machine returns with other disks under the old names.
    one.sh("echo kept >/root/mark").await?;
    one.power_off().await?;
    drop(one.take_disk("d2").await?);
    one.add_disks(vec![Disk::new("d1", 2 * GIB), Disk::new("d2", GIB)]).await?;
    one.boot_again().await?;
    assert_eq!(one.check(["cat", "/root/mark"]).await?, "kept");
    assert_eq!(one.check(["hostname"]).await?, "one");
    assert_eq!(one.check(["blockdev", "--getsize64", "/dev/disk/by-id/virtio-d1"]).await?, (2 * GIB).to_string());
    assert_eq!(one.sh("vgs --noheadings | wc -l").await?, "0");

    // What a power cut leaves of a disk moves with it.
    two.sh("vgchange -qq -an pool && vgchange -qq --addtag kept pool").await?;
    two.power_cut().await?;
    let moved = two.take_disk("d1").await?;
    drop(two);
    drop(one.take_disk("d1").await?);
    one.insert_disk(moved).await?;
    assert_eq!(one.sh("vgs --noheadings -o vg_uuid pool").await?, identity);
    one.shutdown().await
}
