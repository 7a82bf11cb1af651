//! What a reload changes of a group on its master: addresses that the kernel holds come and go with
//! the configuration, and so do the operator's programs, each with the words that it was started with.

use std::{fs, path::Path, time::Duration};

use pen_tests::{Host, Lab, Pend, paths::Scratch, wait_until};

/// Long enough for whatever has to happen on a busy machine.
const SOON: Duration = Duration::from_secs(15);
const A: &str = "10.77.0.101";
const B: &str = "10.77.0.102";
const C: &str = "10.77.0.103";

/// One pen with a group of no service, so that the kernel answers for its addresses.
struct Node {
    pend: Pend,
    files: Scratch,
    lab: Lab,
}

impl Node {
    /// With more keys of the group. It is master on return.
    fn start(group: &str, vips: &[&str]) -> Self {
        let lab = Lab::builder().backends(0).build().unwrap();
        let files = Scratch::new().unwrap();
        let key = files.file("carp.key");
        fs::write(&key, "0123456789abcdef0123456789abcdef").unwrap();
        set_mode(&key, 0o600);
        let pend = Pend::prepare(&lab.balancer().netns).unwrap();
        let mut node = Self { pend, files, lab };
        node.configure(group, vips, "");
        node.pend.launch().unwrap();
        node.pend.wait_ready(0).unwrap();
        node.wait_master();
        node
    }

    fn host(&self) -> &Host {
        self.lab.balancer()
    }

    fn configure(&self, group: &str, vips: &[&str], more: &str) {
        let vip = |vip: &&str| {
            format!("[[vip]]\naddress = \"{vip}\"\ninterface = \"eth0\"\ncarp = \"main\"\n")
        };
        // Fast, unless a group has reasons of its own.
        let advbase = if group.contains("advbase") { "" } else { "advbase = \"500ms\"\n" };
        let config = format!(
            "[control]\nsocket = \"{}\"\n[[interface]]\nname = \"eth0\"\n[[carp]]\nname = \"main\"\n\
             interface = \"eth0\"\n{advbase}auth = \"sha256\"\n\
             keys = [{{ id = 1, file = \"{}\" }}]\n{group}\n{}{more}\n",
            self.pend.socket().display(),
            self.files.file("carp.key").display(),
            vips.iter().map(vip).collect::<String>(),
        );
        self.pend.write_config(&config).unwrap();
    }

    fn reload(&self) {
        let output = self.pend.penctl(["reload"]).unwrap();
        assert!(output.status.success(), "{}", output.stderr);
    }

    #[track_caller]
    fn wait_master(&self) {
        wait_until(SOON, "the node is master", || {
            let groups = self.pend.penctl_json(["carp"]).ok()?;
            (groups[0]["state"] == "master").then_some(())
        })
        .map_err(|error| self.pend.with_log(&error))
        .unwrap();
    }

    fn transitions(&self) -> u64 {
        let groups = self.pend.penctl_json(["carp"]).unwrap();
        groups[0]["transitions"].as_u64().unwrap()
    }

    /// Which of the addresses the interface has.
    fn held(&self) -> Vec<&'static str> {
        let shown = self.host().netns.ip("address show dev eth0").unwrap();
        [A, B, C].into_iter().filter(|vip| shown.contains(&format!(" {vip}/"))).collect()
    }

    #[track_caller]
    fn wait_held(&self, vips: &[&str]) {
        wait_until(SOON, &format!("it has {vips:?}"), || (self.held() == vips).then_some(()))
            .map_err(|error| self.pend.with_log(&error))
            .unwrap();
    }

    /// A program that writes down how it was called.
    fn hook(&self, name: &str) -> String {
        hook(&self.files, name)
    }

    #[track_caller]
    fn wait_told(&self, lines: &[&str]) {
        let log = self.files.file("hooks");
        let told = || fs::read_to_string(&log).unwrap_or_default();
        wait_until(SOON, "the programs have run", || {
            (told().lines().count() >= lines.len()).then_some(())
        })
        .map_err(|error| self.pend.with_log(&error))
        .unwrap();
        assert_eq!(told().lines().collect::<Vec<_>>(), lines);
        fs::remove_file(log).unwrap();
    }
}

fn hook(files: &Scratch, name: &str) -> String {
    let file = files.file(name);
    let log = files.file("hooks");
    fs::write(&file, format!("#!/bin/sh\necho {name} $* >>{}\n", log.display())).unwrap();
    set_mode(&file, 0o755);
    file.display().to_string()
}

fn set_mode(file: &Path, mode: u32) {
    use std::os::unix::fs::PermissionsExt;
    fs::set_permissions(file, fs::Permissions::from_mode(mode)).unwrap();
}

#[test]
fn addresses_of_the_kernel_come_and_go_with_the_configuration_of_a_master() {
    let mut node = Node::start("vhid = 7", &[A, B]);
    node.wait_held(&[A, B]);
    node.configure("vhid = 7", &[B, C], "");
    node.reload();
    node.wait_held(&[B, C]);
    // A service takes one of them away from the kernel, and gives it back.
    let service = format!(
        "[[service]]\nname = \"web\"\nlisten = \"{B}:80\"\nmode = \"dsr\"\n\
         backends = [\"10.77.0.2:80\"]\ncheck = {{ type = \"none\" }}\n"
    );
    node.configure("vhid = 7", &[B, C], &service);
    node.reload();
    node.wait_held(&[C]);
    node.configure("vhid = 7", &[B, C], "");
    node.reload();
    node.wait_held(&[B, C]);
    assert_eq!(node.transitions(), 1, "it was master all the time");
    // Another group of the same name: what the old one had does not stay.
    node.configure("vhid = 8", &[A], "");
    node.reload();
    node.wait_master();
    node.wait_held(&[A]);
    assert!(node.pend.terminate().unwrap().success());
    assert_eq!(node.held(), Vec::<&str>::new());
}

#[test]
fn addresses_of_a_daemon_that_was_killed_go_when_its_successor_has_no_group_for_them() {
    let mut node = Node::start("vhid = 7", &[A, B]);
    node.wait_held(&[A, B]);
    // An operator's own, which looks like one of pen's.
    node.host().netns.ip(&format!("address add {C}/32 dev eth0")).unwrap();
    node.pend.kill9().unwrap();
    assert_eq!(node.held(), [A, B, C]);
    node.configure("vhid = 7", &[B], "");
    node.pend.launch().unwrap();
    node.pend.wait_ready(0).unwrap();
    node.wait_master();
    node.wait_held(&[B, C]);
}

#[test]
fn programs_are_told_of_addresses_that_come_and_go_as_they_were_told_before() {
    let node = Node::start("vhid = 7\nneutral = true", &[A]);
    let (up, down) = (node.hook("up"), node.hook("down"));
    let keys = |vhid: u8, xparam: &str| {
        format!(
            "vhid = {vhid}\naddresses = \"hooks\"\nneutral = true\nup = \"{up}\"\n\
             down = \"{down}\"\nxparam = \"{xparam}\""
        )
    };
    node.configure(&keys(7, "x"), &[A], "");
    node.reload();
    node.wait_held(&[]);
    node.configure(&keys(7, "y"), &[B], "");
    node.reload();
    node.wait_told(&[&format!("down eth0 {A} x"), &format!("up eth0 {B} y")]);
    assert_eq!(node.transitions(), 1, "it was master all the time");
    // Another vhid is another group: the one before it goes as it was.
    node.configure(&keys(8, "z"), &[C], "");
    node.reload();
    node.wait_told(&[&format!("down eth0 {B} y"), &format!("up eth0 {C} z")]);
}

#[test]
fn an_upgrade_neither_removes_addresses_nor_runs_the_program_that_does() {
    let files = Scratch::new().unwrap();
    let (up, down) = (hook(&files, "up"), hook(&files, "down"));
    // Its lease lasts for longer than a busy machine takes to start a daemon.
    let group =
        format!("vhid = 7\nadvbase = \"2s\"\nadvskew = 255\nup = \"{up}\"\ndown = \"{down}\"");
    let mut node = Node::start(&group, &[A]);
    let told = || fs::read_to_string(files.file("hooks")).unwrap_or_default();
    let ups = |count: usize| move |told: &str| told.matches("up eth0").count() == count;
    let wait_for = |count| {
        wait_until(SOON, "the program has run", || ups(count)(&told()).then_some(())).unwrap();
    };
    wait_for(1);
    node.wait_held(&[A]);
    let before = told();
    node.pend.replace().unwrap();
    node.pend.wait_ready(0).unwrap();
    node.wait_master();
    wait_for(2);
    assert_eq!(told(), format!("{before}up eth0 {A}\n"), "{}", node.pend.log());
    assert_eq!(node.held(), [A]);
    assert_eq!(node.transitions(), 1);
}
