//! The real kernel, in a network namespace of the test's own. Needs root or unprivileged user namespaces; without
//! either it says so and passes.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use futago_netconf::{FloatingAddress, Netlink};
use rustix::io::Errno;
use std::net::IpAddr;
use std::process::Command;
use std::time::Duration;

const INSIDE: &str = "FUTAGO_TEST_NAMESPACE";

/// Runs the test `name` again inside a new namespace; true inside.
fn inside_namespace(name: &str) -> bool {
    if std::env::var_os(INSIDE).is_some() {
        return true;
    }
    for options in [&["--net"][..], &["--user", "--map-root-user", "--net"]] {
        if Command::new("unshare")
            .args(options)
            .arg("true")
            .output()
            .is_ok_and(|output| output.status.success())
        {
            let test = std::env::current_exe().unwrap();
            let mut command = Command::new("unshare");
            command.args(options).arg(test).args(["--exact", name, "--nocapture"]).env(INSIDE, "1");
            assert!(command.status().unwrap().success());
            return false;
        }
    }
    println!("skipped: neither root nor unprivileged network namespaces");
    false
}

#[test]
fn addresses_come_and_go() {
    if !inside_namespace("addresses_come_and_go") {
        return;
    }
    let mut netlink = Netlink::open().unwrap();
    assert!(!netlink.interface("lo").unwrap().up);
    netlink.link_up("lo").unwrap();
    assert!(netlink.interface("lo").unwrap().up && netlink.interface("lo").unwrap().loopback);
    for (address, prefix_len) in [("192.0.2.50", 24), ("2001:db8::50", 64)] {
        let address: IpAddr = address.parse().unwrap();
        for _ in 0..2 {
            netlink.add_address("lo", address, prefix_len).unwrap();
        }
        assert!(netlink.addresses("lo").unwrap().contains(&(address, prefix_len)));
        std::net::TcpListener::bind((address, 0)).unwrap();
        for _ in 0..2 {
            netlink.remove_address("lo", address, prefix_len).unwrap();
        }
        assert!(!netlink.addresses("lo").unwrap().contains(&(address, prefix_len)));
    }
    let error = netlink.link_up("eth9").unwrap_err();
    assert_eq!((error.to_string().as_str(), error.errno()), ("find interface eth9", Errno::NODEV));
    let error = netlink.add_address("lo", "192.0.2.1".parse().unwrap(), 33).unwrap_err();
    assert_eq!(error.errno(), Errno::INVAL);
    assert!(netlink.set_default_route("198.51.100.1".parse().unwrap()).is_err(), "no link leads there");
    netlink.add_address("lo", "192.0.2.1".parse().unwrap(), 24).unwrap();
}

#[test]
fn a_floating_address_moves_and_its_neighbour_learns_it() {
    if !inside_namespace("a_floating_address_moves_and_its_neighbour_learns_it") {
        return;
    }
    let run = |line: &str| {
        let mut words = line.split(' ');
        let output = Command::new(words.next().unwrap()).args(words).output().unwrap();
        assert!(output.status.success(), "{line}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    };
    // The neighbour needs a namespace of its own: nobody believes an ARP packet from one of its own addresses.
    let mut neighbour =
        Command::new("unshare").args(["--net", "--kill-child", "--fork", "sleep", "60"]).spawn().unwrap();
    let at = format!("nsenter --net=/proc/{}/ns/net", neighbour.id());
    std::thread::sleep(Duration::from_millis(300));
    run("ip link add left type veth peer name right");
    run(&format!("ip link set right netns {}", neighbour.id()));
    run(&format!("{at} ip link set right up"));
    run(&format!("{at} ip address add 192.0.2.1/24 dev right"));
    run(&format!("{at} ip neigh add 192.0.2.50 lladdr 02:00:00:00:00:01 nud stale dev right"));
    let mut netlink = Netlink::open().unwrap();
    netlink.link_up("left").unwrap();
    let hardware_address = netlink.interface("left").unwrap().hardware_address.unwrap();
    let hardware_address = hardware_address.map(|byte| format!("{byte:02x}")).join(":");

    let address: IpAddr = "192.0.2.50".parse().unwrap();
    let held = FloatingAddress::acquire("left", address, 24).unwrap();
    let again = FloatingAddress::acquire("left", address, 24).unwrap();
    assert!(netlink.addresses("left").unwrap().contains(&(address, 24)));
    let learnt = || run(&format!("{at} ip neigh show dev right")).contains(&hardware_address);
    let mut tries = 0;
    while !learnt() {
        tries += 1;
        assert!(tries < 100, "the neighbour never learnt the address");
        std::thread::sleep(Duration::from_millis(50));
    }
    held.release().unwrap();
    again.release().unwrap();
    FloatingAddress::remove("left", address, 24).unwrap();
    assert!(!netlink.addresses("left").unwrap().contains(&(address, 24)));
    assert!(FloatingAddress::acquire("nowhere", address, 24).is_err());

    netlink.add_address("left", "192.0.2.2".parse().unwrap(), 24).unwrap();
    netlink.set_default_route("192.0.2.254".parse().unwrap()).unwrap();
    netlink.set_default_route("192.0.2.253".parse().unwrap()).unwrap();
    assert!(run("ip route").contains("default via 192.0.2.253"));
    neighbour.kill().unwrap();
    neighbour.wait().unwrap();
}
