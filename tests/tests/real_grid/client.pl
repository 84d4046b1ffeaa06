# Speaks XML-RPC with a real server as an ordinary Perl program would: URL, CA file, user, password.
use strict;
use warnings;
use RPC::XML::Client;

my ($url, $ca, $user, $password) = @ARGV;
my $client = RPC::XML::Client->new($url);
$client->useragent->ssl_opts(SSL_ca_file => $ca, verify_hostname => 1);

sub call {
    my $answer = $client->send_request(@_);
    ref $answer or die "$_[0]: $answer\n";
    return $answer;
}

sub value {
    my $answer = call(@_);
    $answer->is_fault and die "$_[0]: " . $answer->code . ' ' . $answer->string . "\n";
    return $answer->value;
}

sub fault {
    my ($code, @call) = @_;
    my $answer = call(@call);
    $answer->is_fault && $answer->code == $code or die "$call[0]: no fault $code\n";
}

my %methods = map { $_ => 1 } @{ value('system.listMethods') };
$methods{$_} or die "no method $_\n" for qw(session.login host.list guest.list guest.start);
fault(4010, 'guest.list', 'no session');
fault(-32601, 'no.such.method');
my $session = value('session.login', $user, $password);
value('host.list', $session)->[0]{name} eq 'h1' or die "no host h1\n";
my $second = value('guest.list', $session, { limit => '1', offset => '1', fields => 'name' });
@$second == 1 && $second->[0]{name} eq 'python' or die "the second guest is another\n";
fault(4040, 'guest.get', $session, 'unknown');
my $operation = value('guest.start', $session, 'perl');
# Perl sends "30" as a number and ids as strings; both must be understood.
my $ended = value('operation.wait', $session, $operation->{id}, '30');
$ended->{state} eq 'succeeded' or die "guest.start: $ended->{state}\n";
my $both = value('system.multicall', [{ methodName => 'guest.get', params => [$session, 'perl'] }]);
$both->[0][0]{name} eq 'perl' or die "multicall: another guest\n";
print "all fine\n";
