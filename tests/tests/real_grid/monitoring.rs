//! A host watched by programs that others wrote: net-snmp's snmpd, snmpwalk and snmptrapd, promtool and Prometheus.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use roost_tests::grid::{self, Grid, eventually, program, text, tiny};
use serde_json::{Value, json};

/// Samples come every second, details every fifteen; a loaded machine is slower.
const SOON: Duration = Duration::from_secs(60);
/// Three misses, with the waits between them.
const PROBED: Duration = Duration::from_secs(120);
const ACCESS: &str = "-v3 -l authPriv -u mon -a SHA-256 -A authpass12345 -x AES -X privpass12345";
const METRICS: &str = "9177";
/// roostObjects.
const ROOST: &str = ".1.3.6.1.4.1.32473.236.1";

#[test]
fn real_host_is_watched_by_snmp_and_prometheus() {
    grid::story(1, |grid| {
        let folder = prepare(grid)?;
        grid.give_images(1)?;
        grid.start_agent(1)?;
        grid.await_host(1, "up", SOON)?;
        for name in ["one", "two"] {
            let mut spec = tiny(name, "h1", true);
            spec["disks"] = json!([{"from": "blank", "size_mib": 64}]);
            if name == "two" {
                networked(grid, &mut spec)?;
            }
            grid.api.done(reqwest::Method::POST, "/guests", &spec)?;
        }
        probed(grid, &folder)?;
        let log = |name: &str| folder.join(name);
        let conf = log("snmpd.conf");
        let environment = format!("SNMPCONFPATH={0} SNMP_PERSISTENT_DIR={0}/kept MIBS=", folder.display());
        let daemon = |name: &str, rest: &str| -> Result<()> {
            let line = format!(
                "exec env {environment} {name} -f -C -c {0}/{name}.conf -Lf {0}/{name}.log {rest}",
                folder.display()
            );
            grid.lab.spawn(1, &log(&format!("{name}.out")), &["sh", "-c", &line]).map(drop)
        };
        ensure!(fs::read_to_string(&conf)?.contains("master agentx"), "no drop-in");
        fs::write(log("snmptrapd.conf"), "authCommunity log public\n")?;
        daemon("snmptrapd", "-On udp:127.0.0.1:162")?;
        daemon("snmpd", "")?;
        watched_by_snmp(grid, &environment)?;
        traps_arrive(grid, &folder)?;
        let made = grid.api.post("/backup-sets/two/actions/run", &json!({}))?;
        ensure!(grid.api.ended(&made, SOON)?["state"] == "succeeded", "a backup");
        scraped(grid, &folder)?;
        out_of_service(grid, &environment)?;
        answers(grid, &environment)?;
        remembered(grid)
    });
}

/// Makes it a Linux guest on a bridge of the host.
fn networked(grid: &Grid, spec: &mut Value) -> Result<()> {
    grid.lab.exec(
        1,
        &["sh", "-c", "ip link add br0 type bridge && ip link set br0 up && ip addr add 198.51.100.1/24 dev br0"],
    )?;
    spec["memory_mib"] = json!(128);
    spec["nics"] = json!([{"bridge": "br0"}]);
    let cmdline = "console=ttyS0 quiet panic=-1 roost.quiet=1 roost.ip=198.51.100.2/24";
    spec["boot"] = json!({"from": "kernel", "kernel": "vmlinuz", "initrd": "initrd.cpio", "cmdline": cmdline});
    Ok(())
}

/// What goes to a guest, and what it answers, is in its history.
fn traffic_is_remembered(grid: &Grid) -> Result<()> {
    eventually("a guest's network is in its history", SOON, || {
        let line = "head -c 1000 /dev/zero | socat -u - UDP-SENDTO:198.51.100.2:9";
        grid.lab.exec(1, &["sh", "-c", line])?;
        let lines = grid.api.get("/guests/two/history?last=600&points=60")?;
        let some = |name: &str| {
            lines["items"].as_array().is_some_and(|all| all.iter().any(|line| line[name].as_u64() > Some(0)))
        };
        ensure!(some("receive_bps") && some("transmit_bps"), "{lines}");
        Ok(())
    })
}

/// Has doors tried: QEMU's VNC, Python's web server and the machine beside answer, VNC is no RDP, and nobody is at the
/// last two.
fn probed(grid: &Grid, folder: &std::path::Path) -> Result<()> {
    let servers = [
        "exec qemu-system-x86_64 -S -machine pc -accel tcg -m 16 -nodefaults -vga std -vnc 127.0.0.1:77",
        "exec python3 -m http.server --bind 127.0.0.1 --directory / 8077",
    ];
    for (number, line) in servers.iter().enumerate() {
        let log = folder.join(format!("server-{number}.log"));
        grid.lab.spawn(1, &log, &["timeout", "--foreground", "600", "sh", "-c", line])?;
    }
    let (beside, nobody) = (grid.lab.address(0), grid.lab.address(200));
    let open = format!("vnc://127.0.0.1:5977,http://127.0.0.1:8077,ping://{beside},arp://{beside}");
    grid.roost(&["guest", "probe", "two", "--probes", &open])?;
    let shut = format!("rdp://127.0.0.1:5977,tcp://127.0.0.1:9,ping://{nobody},arp://{nobody}");
    grid.roost(&["guest", "probe", "one", "--probes", &shut])?;
    let why = grid.roost(&["guest", "probe", "one", "--probes", "rdp://desk"]).err().context("a name is taken")?;
    ensure!(format!("{why:#}").contains("give one such as"), "{why:#}");
    Ok(())
}

fn door(it: &Value) -> Option<(&str, bool, &str)> {
    Some((it["probe"].as_str()?, it["up"].as_bool()?, it["answer"].as_str()?))
}

/// What the host found out is told by all that tell of guests.
fn answers(grid: &Grid, environment: &str) -> Result<()> {
    let doors = |name: &str, expected: &[(&str, bool, &str)]| {
        eventually("doors are tried", PROBED, || {
            let guest = grid.api.get(&format!("/guests/{name}"))?;
            let found = guest["access"].as_array().context("access")?;
            ensure!(found.iter().filter_map(door).eq(expected.iter().copied()), "{guest}");
            Ok(())
        })
    };
    let of = |number: u8| ["ping", "arp"].map(|word| format!("{word}://{}", grid.lab.address(number)));
    let ([ping, arp], [no_ping, no_arp]) = (of(0), of(200));
    let (vnc, http) = (("vnc://127.0.0.1:5977", true, "ok"), ("http://127.0.0.1:8077/", true, "ok"));
    doors("two", &[vnc, http, (&ping, true, "ok"), (&arp, true, "ok")])?;
    let (rdp, tcp) = (("rdp://127.0.0.1:5977", false, "bad_reply"), ("tcp://127.0.0.1:9", false, "refused"));
    doors("one", &[rdp, tcp, (&no_ping, false, "timed_out"), (&no_arp, false, "timed_out")])?;
    eventually("an alarm tells of it", SOON, || {
        let alarms = |guest: &str| Ok::<_, anyhow::Error>(grid.api.get(&format!("/alarms?guest={guest}"))?.to_string());
        let (one, two) = (alarms("one")?, alarms("two")?);
        // It names the door that was found shut first; which one is tried first is chance.
        let doors =
            ["at rdp://127.0.0.1:5977 something else", "at tcp://127.0.0.1:9 the connection is refused", "no answer"];
        let named = doors.iter().any(|door| one.contains(door));
        ensure!(one.contains("guest-unreachable") && named, "{one}");
        ensure!(!two.contains("guest-unreachable"), "{two}");
        Ok(())
    })?;
    eventually("metrics and SNMP tell of it", SOON, || {
        let page = format!("http://{}:{METRICS}/metrics", grid.lab.address(1));
        let metrics = reqwest::blocking::get(&page)?.text()?;
        let up = "roost_guest_access_up{domain=\"two\",protocol=\"vnc\",address=\"127.0.0.1:5977\"} 1\n";
        let down = "roost_guest_access_up{domain=\"one\",protocol=\"rdp\",address=\"127.0.0.1:5977\"} 0\n";
        let ping = format!("protocol=\"ping\",address=\"{}\"}} 1\n", grid.lab.address(0));
        ensure!(metrics.contains(up) && metrics.contains(down) && metrics.contains(&ping), "{metrics}");
        checked_by_promtool(&metrics)?;
        let told = ask(grid, environment, "snmpbulkwalk", &format!("{ROOST}.3.1.8"))?;
        let states: Vec<&str> = told.lines().filter_map(|line| line.rsplit(' ').next()).collect();
        ensure!(states.contains(&"2") && states.contains(&"5"), "ok(2), badReply(5): {told}");
        Ok(())
    })
}

/// Whose doors answer and whose don't is in their history and summed up.
fn doors_are_remembered(grid: &Grid) -> Result<()> {
    let has = |guest: &str, percent: f64| {
        eventually("a guest's doors are in its history", SOON, || {
            let lines = grid.api.get(&format!("/guests/{guest}/history?last=600&points=60"))?;
            let is = |line: &Value| line["availability_percent"].as_f64() == Some(percent);
            ensure!(lines["items"].as_array().is_some_and(|all| all.iter().any(is)), "{guest}: {lines}");
            Ok(())
        })
    };
    has("two", 100.0)?;
    has("one", 0.0)?;
    let report = grid.api.get("/guests/two/report?last=600")?;
    let measures: Vec<&Value> =
        report["items"].as_array().context("items")?.iter().map(|line| &line["measure"]).collect();
    ensure!(measures.contains(&&json!("availability_percent")), "{report}");
    ensure!(measures.contains(&&json!("access_rtt_ms")), "{report}");
    Ok(())
}

/// What was sampled is asked of the host when somebody looks, also after its agent died.
fn remembered(grid: &mut Grid) -> Result<()> {
    let lines = |grid: &Grid, of: &str| -> Result<Vec<Value>> {
        let told = grid.api.get(&format!("{of}/history?last=600&points=60"))?;
        Ok(told["items"].as_array().context("items")?.clone())
    };
    let with = |grid: &Grid, of: &str, memory: &str| -> Result<usize> {
        let lines = lines(grid, of)?;
        ensure!(lines.iter().any(|line| line[memory].as_u64().is_some_and(|mib| mib > 0)), "{of}: {lines:?}");
        ensure!(lines.iter().all(|line| line["step_s"] == 10), "{lines:?}");
        Ok(lines.len())
    };
    eventually("two lines of a guest and of the host", SOON, || {
        ensure!(with(grid, "/guests/two", "resident_mib")? > 1, "one");
        ensure!(with(grid, "/hosts/h1", "memory_available_mib")? > 1, "one");
        Ok(())
    })?;
    traffic_is_remembered(grid)?;
    doors_are_remembered(grid)?;
    let before = lines(grid, "/guests/two")?;
    summed_up(grid, &before)?;
    grid.kill(1)?;
    grid.start_agent(1)?;
    grid.await_host(1, "up", SOON)?;
    let first = before.first().context("a line")?;
    eventually("what was, is still there", SOON, || {
        let after = lines(grid, "/guests/two")?;
        ensure!(after.contains(first), "{first} is not in {after:?}");
        Ok(())
    })?;
    let long_ago = grid.api.get("/guests/two/history?until=2020-01-01T00:00:00Z")?;
    ensure!(long_ago["items"].as_array().is_some_and(Vec::is_empty), "{long_ago}");
    Ok(())
}

/// The report is of what the history shows, as JSON and as CSV.
fn summed_up(grid: &Grid, lines: &[Value]) -> Result<()> {
    let most = lines.iter().filter_map(|line| line["resident_mib"].as_u64()).max().context("a line")?;
    let report = grid.api.get("/guests/two/report?last=600")?;
    let line = report["items"].as_array().and_then(|all| all.iter().find(|line| line["measure"] == "resident_mib"));
    let figure = |name: &str| line.and_then(|line| line[name].as_f64()).with_context(|| format!("{name} in {report}"));
    let (mean, p95, max) = (figure("mean")?, figure("p95")?, figure("max")?);
    ensure!(mean > 0.0 && mean <= max && p95 <= max && max >= f64::from(u32::try_from(most)?), "{most}: {report}");
    let all = grid.api.get("/reports/guests?last=600")?;
    let all = all["items"].as_array().context("items")?;
    let names: Vec<&str> = all.iter().filter_map(|line| line["name"].as_str()).collect();
    ensure!(names == ["one", "two"] && all.iter().all(|line| line["resident_mean_mib"].is_number()), "{all:?}");
    let sheet = grid.roost(&["report", "guests", "--host", "h1", "--last", "600s", "-o", "csv"])?;
    ensure!(sheet.lines().count() == 3 && sheet.contains("receive_mean_bps"), "{sheet}");
    Ok(())
}

/// Settings of the agent, and the drop-in that it writes.
fn prepare(grid: &Grid) -> Result<PathBuf> {
    let folder = grid.lab.folder().join("watch");
    fs::create_dir_all(&folder)?;
    grid.configure(1, &grid.token("h1")?)?;
    let settings = grid.lab.folder().join("agent-1.toml");
    let socket = folder.join("agentx");
    let more = format!("snmp_socket = '{}'\nmetrics_listen = '0.0.0.0:{METRICS}'\n", socket.display());
    OpenOptions::new().append(true).open(&settings)?.write_all(more.as_bytes())?;
    let mut setup = Command::new(program("roost-agent")?);
    setup.args(["--config", text(&settings)?, "snmp", "setup", "--v3-user", "mon", "--listen", "udp:127.0.0.1:161"]);
    setup.args(["--trap", "127.0.0.1:162", "--output", text(&folder.join("snmpd.conf"))?]);
    setup.env("ROOST_SNMP_AUTH", "authpass12345").env("ROOST_SNMP_PRIV", "privpass12345");
    grid::output(&mut setup)?;
    Ok(folder)
}

fn snmp(grid: &Grid, environment: &str, program: &str, oid: &str) -> Result<String> {
    ask(grid, environment, program, &format!(".1.3.6.1.2.1.236.{oid}"))
}

fn ask(grid: &Grid, environment: &str, program: &str, oid: &str) -> Result<String> {
    let line = format!("exec env {environment} {program} {ACCESS} -On 127.0.0.1:161 {oid}");
    grid.lab.exec(1, &["sh", "-c", &line])
}

fn watched_by_snmp(grid: &Grid, environment: &str) -> Result<()> {
    eventually("both guests run, by SNMP", SOON, || {
        let states = snmp(grid, environment, "snmpbulkwalk", "1.4.1.6")?;
        ensure!(states.matches("INTEGER: 4").count() == 2, "{states}");
        Ok(())
    })?;
    eventually("details of both guests, by SNMP", SOON, || {
        let all = snmp(grid, environment, "snmpbulkwalk", "1")?;
        let column =
            |column: &str| all.lines().filter(|line| line.contains(&format!(".236.1.{column}."))).collect::<Vec<_>>();
        ensure!(column("5.1.2").iter().filter(|line| !line.ends_with(": 0")).count() == 2, "CPU time: {all}");
        ensure!(column("7.1.11").iter().filter(|line| line.ends_with(": 64")).count() == 2, "sizes of disks: {all}");
        ensure!(column("4.1.16").iter().filter(|line| !line.contains("(0)")).count() == 2, "uptime: {all}");
        Ok(())
    })
}

fn traps_arrive(grid: &Grid, folder: &std::path::Path) -> Result<()> {
    let qemu = grid.qemu(1, "one")?.to_string();
    grid.lab.exec(1, &["kill", "-9", &qemu])?;
    eventually("snmptrapd is told of a crash and of the new start", SOON, || {
        let received = fs::read_to_string(folder.join("snmptrapd.log")).unwrap_or_default();
        for number in [9, 1] {
            let name = format!("OID: .1.3.6.1.2.1.236.0.{number}\t");
            ensure!(received.lines().any(|line| line.contains(&name) && line.contains("one")), "{number}: {received}");
        }
        Ok(())
    })
}

/// Of the dashboard's questions, those about what no host of this story has.
const ABSENT: [&str; 2] = ["roost_replica_lag_seconds", "roost_alarm{"];

fn scraped(grid: &Grid, folder: &std::path::Path) -> Result<()> {
    // Whoever was first has set it; plain HTTP needs one all the same.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let page = format!("http://{}:{METRICS}/metrics", grid.lab.address(1));
    let wanted = [
        "libvirt_domain_vcpu_time_seconds_total{domain=\"two\"",
        "libvirt_domain_block_stats_write_bytes_total",
        "roost_backup_points{domain=\"two\"} 1\n",
        "roost_backup_last_success_timestamp_seconds{domain=\"two\"}",
    ];
    let mut metrics = String::new();
    eventually("metrics of both guests", SOON, || {
        metrics = reqwest::blocking::get(&page)?.text()?;
        ensure!(wanted.iter().all(|name| metrics.contains(name)), "{metrics}");
        Ok(())
    })?;
    checked_by_promtool(&metrics)?;
    let rules = concat!(env!("CARGO_MANIFEST_DIR"), "/../agent/prometheus/alerts.yml");
    let settings = format!(
        "global: {{scrape_interval: 1s, evaluation_interval: 1s}}\nrule_files: ['{rules}']\nscrape_configs: [{{job_name: roost, static_configs: [{{targets: ['127.0.0.1:{METRICS}']}}]}}]\n"
    );
    fs::write(folder.join("prometheus.yml"), settings)?;
    let line = format!(
        "exec prometheus --config.file={0}/prometheus.yml --storage.tsdb.path={0}/tsdb --web.listen-address=0.0.0.0:9090",
        folder.display()
    );
    grid.lab.spawn(1, &folder.join("prometheus.log"), &["sh", "-c", &line])?;
    eventually("Prometheus has both guests", SOON, || {
        let query = format!("http://{}:9090/api/v1/query?query=libvirt_domain_info_meta", grid.lab.address(1));
        let answer: Value = reqwest::blocking::get(&query)?.json()?;
        ensure!(answer["data"]["result"].as_array().map(Vec::len) == Some(2), "{answer}");
        Ok(())
    })?;
    eventually("Prometheus judges all rules, and finds nothing wrong but what is", SOON, || {
        let page = format!("http://{}:9090/api/v1/rules", grid.lab.address(1));
        let answer: Value = reqwest::blocking::get(&page)?.json()?;
        let groups = answer["data"]["groups"].as_array().context("groups")?;
        let rules: Vec<&Value> = groups.iter().filter_map(|group| group["rules"].as_array()).flatten().collect();
        ensure!(rules.len() > 8 && rules.iter().all(|rule| rule["health"] == "ok"), "{answer}");
        let quiet = ["RoostHostGone", "RoostHypervisorAway", "RoostAggregatorAway", "RoostBackupLate"];
        ensure!(
            rules.iter().all(|rule| rule["state"] == "inactive" || !quiet.iter().any(|name| rule["name"] == *name)),
            "{answer}"
        );
        Ok(())
    })?;
    shown_on_the_dashboard(grid)
}

/// Prometheus answers all that the dashboard asks, with something but for what this host has none of.
fn shown_on_the_dashboard(grid: &Grid) -> Result<()> {
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/../agent/prometheus/grafana.json");
    let dashboard: Value = serde_json::from_str(&fs::read_to_string(file)?)?;
    let panels = dashboard["panels"].as_array().context("panels")?;
    let targets = panels.iter().filter_map(|panel| panel["targets"].as_array()).flatten();
    let questions: Vec<&str> = targets.filter_map(|target| target["expr"].as_str()).collect();
    ensure!(questions.len() > 25, "{questions:?}");
    let page = format!("http://{}:9090/api/v1/query", grid.lab.address(1));
    eventually("Prometheus answers all that the dashboard asks", SOON, || {
        let mut nothing = Vec::new();
        for question in &questions {
            let any = ["$job", "$instance", "$domain"];
            let asked = any.into_iter().fold((*question).to_owned(), |text, name| text.replace(name, ".*"));
            let answer = reqwest::blocking::Client::new().get(&page).query(&[("query", &asked)]).send()?;
            let answer: Value = answer.json()?;
            let empty = answer["data"]["result"].as_array().is_none_or(Vec::is_empty);
            ensure!(answer["status"] == "success", "{asked}: {answer}");
            if empty && !ABSENT.iter().any(|name| question.contains(name)) {
                nothing.push(question);
            }
        }
        ensure!(nothing.is_empty(), "nothing is told of: {nothing:#?}");
        Ok(())
    })
}

/// What an admin wishes of the host is told by the host too.
fn out_of_service(grid: &Grid, environment: &str) -> Result<()> {
    let state = |name: &str, number: u8| {
        eventually("the host says whether it is in service", SOON, || {
            let page = format!("http://{}:{METRICS}/metrics", grid.lab.address(1));
            let metrics = reqwest::blocking::get(&page)?.text()?;
            ensure!(metrics.contains(&format!("roost_host_state{{state=\"{name}\"}} 1\n")), "{name}: {metrics}");
            let told = ask(grid, environment, "snmpget", &format!("{ROOST}.1.3.0"))?;
            ensure!(told.trim_end().ends_with(&format!("INTEGER: {number}")), "{name}: {told}");
            Ok(())
        })
    };
    state("online", 1)?;
    grid.roost(&["host", "drain", "h1"])?;
    // Nobody can go on with its guests.
    state("draining", 3)?;
    grid.roost(&["host", "resume", "h1"])?;
    state("online", 1)
}

fn checked_by_promtool(metrics: &str) -> Result<()> {
    let mut promtool = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .context("promtool is missing: tests/lab/deps.sh test")?;
    promtool.stdin.take().context("its input")?.write_all(metrics.as_bytes())?;
    let said = promtool.wait_with_output()?;
    let complaint = String::from_utf8_lossy(&said.stderr);
    if !said.status.success() || !complaint.is_empty() {
        bail!("promtool: {complaint}\n{metrics}");
    }
    Ok(())
}
