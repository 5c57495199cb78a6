# Reads a raw volume all the time, as a pod would that keeps it open, while it becomes larger.
# Arguments: the device, the size that it has now, the file that ends it.
# Prints: how often it looked, how often it was larger than before, its size at the end, and the first byte beyond the
# old size that was not zero, or "clean".
use strict;
my ($path, $old, $stop) = @ARGV;
my $zeros = "\0" x (1 << 20);
open(my $device, '<:raw', $path) or die "$path: $!";
my ($looks, $sizes, $end, $found) = (0, 0, $old, 'clean');

sub zero {
    my ($from, $to) = @_;
    sysseek($device, $from, 0);
    while ($from < $to) {
        my $wanted = $to - $from < 1 << 20 ? $to - $from : 1 << 20;
        my $count = sysread($device, my $bytes, $wanted) or die "reading $path at $from: $!";
        if ($bytes ne substr($zeros, 0, $count)) {
            $bytes =~ /[^\0]/;
            $found = $from + $-[0];
            return;
        }
        $from += $count;
    }
}

while ($found eq 'clean') {
    my $last = -e $stop;
    $looks++;
    # BLKFLSBUF: what was read before is read from the disk again.
    ioctl($device, 0x1261, 0);
    my $now = sysseek($device, 0, 2);
    if ($now > $end) {
        zero($end, $now);
        $sizes++;
        $end = $now;
    }
    if ($end > $old) {
        my $window = $end - $old < 1 << 20 ? $end - $old : 1 << 20;
        zero($end - $window, $end);
        my $at = $old + int(rand($end - $old - $window + 1));
        zero($at, $at + $window) if $found eq 'clean';
    }
    last if $last;
}
print "$looks $sizes $end $found\n";
