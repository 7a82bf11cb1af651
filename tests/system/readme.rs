//! The README is the first thing that a user tries, so all its commands are tried here, letter by
//! letter, on a site of the addresses that it uses. A command that this file does not know fails
//! the test, so that nothing untried gets in.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use pen_common::verdict::Counter;
use pen_tests::{
    lab::{Host, Lab},
    paths::{Scratch, program_dir},
    process::{Output, Process, run},
    server::Demo,
    wait::wait_until,
};

/// A command of the README may build first.
const PATIENCE: Duration = Duration::from_secs(300);
const SOON: Duration = Duration::from_secs(20);

/// A fenced block: its language and its lines.
struct Block {
    language: String,
    lines: Vec<String>,
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").canonicalize().expect("the repository")
}

fn blocks() -> Vec<Block> {
    let text = fs::read_to_string(root().join("README.md")).expect("README.md");
    let mut blocks = Vec::new();
    let mut open: Option<Block> = None;
    for line in text.lines() {
        match (line.strip_prefix("```"), open.as_mut()) {
            (Some(language), None) => {
                open = Some(Block { language: language.to_owned(), lines: Vec::new() });
            }
            (Some(_), Some(_)) => blocks.extend(open.take()),
            (None, Some(block)) => block.lines.push(line.to_owned()),
            (None, None) => {}
        }
    }
    blocks
}

fn commands(prefix: &str) -> Vec<String> {
    let shells = blocks().into_iter().filter(|block| block.language == "sh");
    shells.flat_map(|block| block.lines).filter(|line| line.starts_with(prefix)).collect()
}

/// Figures and widths differ from run to run.
fn shape(line: &str) -> String {
    let digits = line.replace(|character: char| character.is_ascii_digit(), " ");
    digits.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[test]
fn every_command_of_the_readme_is_tried_by_a_test() {
    let known = ["cargo xtask run", "cargo xtask test", "penctl ", "ip addr add ", "sysctl -w "];
    for block in blocks().iter().filter(|block| block.language == "sh") {
        for line in &block.lines {
            assert!(known.iter().any(|known| line.starts_with(known)), "untried: {line}");
        }
    }
    let ci = fs::read_to_string(root().join(".ci/run")).expect(".ci/run");
    for command in commands("cargo xtask test") {
        assert!(ci.lines().any(|line| line == command), "CI does not run `{command}`");
    }
}

#[test]
fn the_table_of_counters_is_that_of_the_program() {
    let readme = fs::read_to_string(root().join("README.md")).expect("README.md");
    let rows: Vec<String> = Counter::ALL
        .iter()
        .map(|counter| format!("| `{}` | {} |", counter.name(), counter.describe()))
        .collect();
    let table = readme.split_once("| counter | frames |\n|---|---|\n").expect("a table").1;
    let found: Vec<&str> = table.lines().take_while(|line| line.starts_with('|')).collect();
    assert_eq!(found, rows, "it should be:\n{}\n", rows.join("\n"));
}

#[test]
fn the_first_command_shows_what_the_readme_promises() {
    let first = commands("cargo xtask run").remove(0);
    let mut command = Command::new("sh");
    command.current_dir(root()).args(["-c", &format!("{first} --exit-after-demo")]);
    let output = run(&mut command, PATIENCE).expect("the demonstration ends");
    assert!(output.status.success(), "{}\n{}", output.stdout, output.stderr);
    let shown: Vec<String> = output.stdout.lines().map(shape).collect();
    let promised = blocks().into_iter().find(|block| block.language == "text").expect("a sample");
    for line in promised.lines {
        assert!(shown.contains(&shape(&line)), "not shown: {line}\n{}", output.stdout);
    }
}

#[test]
fn a_site_is_set_up_with_the_commands_and_the_configuration_of_the_readme() {
    let site = Site::new();
    for backend in &site.backends {
        for command in commands("ip addr add ").into_iter().chain(commands("sysctl ")) {
            let mut shell = backend.netns.command("sh");
            let output = run(shell.args(["-c", &command]), SOON).expect("ends");
            assert!(output.status.success(), "{command}: {}", output.stderr);
        }
    }
    let mut runs = commands("cargo xtask run").into_iter().skip(1);

    // Without a configuration.
    let mut pend = site.start(&runs.next().expect("--interface"));
    site.wait_served(&mut pend);
    end(&mut pend);

    // With the README's configuration.
    site.write_configuration();
    let mut pend = site.start(&runs.next().expect("--config"));
    site.wait_served(&mut pend);
    let of_servers = "penctl decap ";
    for command in commands(of_servers) {
        let output = site.on_server(&command);
        assert!(output.status.success(), "{command}: {}", output.stderr);
    }
    let commands = commands("penctl ").into_iter().filter(|line| !line.starts_with(of_servers));
    let (ends, asks): (Vec<_>, Vec<_>) = commands.partition(|command| {
        ["penctl leave", "penctl detach"].iter().any(|end| command.starts_with(end))
    });
    site.says(&asks);
    let curl = "curl -s --unix-socket /run/pen/pend.sock http://pen/v1/backends";
    let readme = fs::read_to_string(root().join("README.md")).expect("README.md");
    assert!(readme.contains(&curl.replace(" -s", "")), "the README names another way");
    assert!(site.shell(curl, SOON).stdout.starts_with("[{\"service\":\"web\""));

    // Another one takes over, leaves, and what it has left is removed.
    let mut next = site.start(&runs.next().expect("--replace"));
    let status = pend.wait(PATIENCE).expect("it is asked to leave");
    assert!(status.success(), "{status}: {}", pend.log());
    site.wait_served(&mut next);
    site.says(&ends[..1]);
    assert!(next.wait(SOON).expect("it leaves").success(), "{}", next.log());
    assert!(site.is_served(), "by the kernel alone");
    site.says(&ends[1..]);
    assert!(!site.is_served(), "nobody forwards");
    assert!(runs.next().is_none(), "a command that is not tried");
}

fn end(pend: &mut Process) {
    let status = pend.terminate(SOON).expect("SIGTERM ends it");
    assert!(status.success(), "{status}: {}", pend.log());
}

/// The network of the README's addresses, and a view of the file system in which the default places
/// of pen (/etc/pen, /run/pen, /sys/fs/bpf/pen) are not those of this machine.
struct Site {
    lab: Lab,
    backends: Vec<Host>,
    _servers: Vec<Demo>,
    view: Process,
    scratch: Scratch,
}

impl Site {
    fn new() -> Self {
        let mut lab = Lab::builder().backends(2).vips(&[]).build().expect("a lab");
        let backends = std::mem::take(&mut lab.backends);
        lab.balancer().netns.ip("address add 10.0.0.1/24 dev eth0").expect("address");
        lab.client().netns.ip("route add 192.0.2.0/24 dev eth0").expect("route");
        for (backend, address) in backends.iter().zip(["10.0.0.11", "10.0.0.12"]) {
            backend.netns.ip(&format!("address add {address}/24 dev eth0")).expect("address");
        }
        let servers = backends.iter().map(|host| Demo::on(host).expect("a server")).collect();
        let scratch = Scratch::new().expect("a folder");
        let mut view = lab.balancer().netns.command("unshare");
        // An overlay over /etc needs its upper layer on another file system than itself.
        view.args(["--mount", "sh", "-c"]).arg(
            "mount -t tmpfs tmpfs /run && mkdir /run/lock /run/upper /run/work && \
             mount -t overlay -o lowerdir=/etc,upperdir=/run/upper,workdir=/run/work overlay /etc \
             && mount -t sysfs sysfs /sys && mount -t bpf bpf /sys/fs/bpf && mkdir /etc/pen && \
             echo ready && exec sleep 600",
        );
        let view = Process::start("view", view, &scratch.file("view.log")).expect("a view");
        wait_until(SOON, "a private view of the file system", || {
            view.log().contains("ready").then_some(())
        })
        .expect("mounts");
        Self { lab, backends, _servers: servers, view, scratch }
    }

    /// A shell on the balancer, in the repository, with the built programs on the path.
    fn command(&self, line: &str) -> Command {
        self.command_in("--net", line)
    }

    /// The same on a server.
    fn on_server(&self, line: &str) -> Output {
        let net = format!("--net=/run/netns/{}", self.backends[0].netns.name());
        run(&mut self.command_in(&net, line), SOON).expect(line)
    }

    fn command_in(&self, net: &str, line: &str) -> Command {
        let programs = program_dir().expect("programs");
        let mut command = Command::new("nsenter");
        let pid = self.view.pid().to_string();
        command.args(["--target", &pid, net, "--mount", "--", "sh", "-c"]);
        command.arg(format!(
            "cd '{}' && PATH='{}':\"$PATH\" && exec {line}",
            root().display(),
            programs.display()
        ));
        command
    }

    fn shell(&self, line: &str, limit: Duration) -> Output {
        run(&mut self.command(line), limit).expect(line)
    }

    fn start(&self, line: &str) -> Process {
        let log = self.scratch.file("pend.log");
        Process::start(line, self.command(line), &log).expect(line)
    }

    /// The README's configuration, and its secret made as it says.
    fn write_configuration(&self) {
        let toml = blocks().into_iter().find(|block| block.language == "toml").expect("a sample");
        let text = toml.lines.join("\n");
        let file = self.scratch.file("pen.toml");
        fs::write(&file, &text).expect("write");
        let secret = text
            .lines()
            .find_map(|line| line.split_once("make it with: "))
            .map(|(_, command)| command.replace("FILE", "/etc/pen/cluster.key"))
            .expect("the README says how to make a secret");
        let line = format!("sh -c '{secret}; cp {} /etc/pen/pen.toml'", file.display());
        let output = self.shell(&line, SOON);
        assert!(output.status.success(), "{}", output.stderr);
    }

    /// Runs commands that have to succeed, and say something.
    fn says(&self, commands: &[String]) {
        for command in commands {
            let output = self.shell(command, SOON);
            assert!(output.status.success(), "{command}: {}{}", output.stdout, output.stderr);
            assert!(!output.stdout.is_empty(), "{command} says nothing");
        }
    }

    fn is_served(&self) -> bool {
        let mut curl = self.lab.client().netns.command("curl");
        curl.args(["-s", "--max-time", "1", "http://192.0.2.10/"]);
        run(&mut curl, SOON).is_ok_and(|output| ["b1\n", "b2\n"].contains(&&*output.stdout))
    }

    /// The service is served, and `penctl` answered: the kernel alone serves, too.
    fn wait_served(&self, pend: &mut Process) {
        let served = wait_until(PATIENCE, "an answer through the balancer", || {
            assert!(pend.is_running(), "{}", pend.log());
            let answers = || self.shell("penctl status", SOON).status.success();
            (self.is_served() && answers()).then_some(())
        });
        served.unwrap_or_else(|error| panic!("{error}: {}", pend.log()));
    }
}
