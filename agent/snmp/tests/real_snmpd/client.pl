# Reads the table of guests as a Perl monitoring script would, by Net::SNMP and SNMPv2c: port, guests.
use strict;
use warnings;
use Net::SNMP;

my ($port, $guests) = @ARGV;
my ($session, $error) = Net::SNMP->session(
    -hostname => '127.0.0.1', -port => $port, -version => 'snmpv2c', -community => 'watch', -timeout => 10, -retries => 3);
$session or die "$error\n";
# Octets as they came: a UUID is no text.
$session->translate(0);
my $row = '.1.3.6.1.2.1.236.1.4.1';
my $all = $session->get_entries(-columns => ["$row.2", "$row.3", "$row.6"], -maxrepetitions => 8)
    or die $session->error . "\n";
keys %$all == 3 * $guests or die scalar(keys %$all) . " objects\n";
for my $number (1 .. $guests) {
    $all->{"$row.2.$number"} eq sprintf('desk-%04d', $number) or die "name of $number\n";
    $all->{"$row.3.$number"} eq pack('x15C', $number) or die "UUID of $number\n";
    $all->{"$row.6.$number"} == 4 or die "state of $number\n";
}
print "all fine\n";
