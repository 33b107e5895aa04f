//! Members that are lost, removed and replaced.

use super::fixture::{TestNode, create_volume, eventually, serving_trio};
use super::scenarios::grow;
use control::api::{Command, Status, VolumeState};
use control::paths;
use control::settings::Role;
use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::time::Duration;

fn voters(status: &Status) -> Vec<String> {
    let members = status.cluster.as_ref().map(|cluster| cluster.members.clone()).unwrap_or_default();
    members.into_iter().filter(|member| member.votes).map(|member| member.name).collect()
}

fn remove(name: &str) -> Command {
    Command::RemoveMember { name: name.into() }
}

#[test]
fn a_lost_data_node_is_removed_and_another_takes_its_place() {
    let (mut nodes, primary) = serving_trio(31);
    let lost = 1 - primary;
    let name = |node: &TestNode| node.settings.name.clone();
    let (primary_name, lost_name) = (name(&nodes[primary]), name(&nodes[lost]));
    assert_eq!(voters(&nodes[2].status()).len(), 3);
    assert_eq!(nodes[2].fails(&remove("nobody")).0, "not_found");
    assert_eq!(nodes[2].fails(&remove("witness")).0, "refused", "of itself");
    let (kind, text) = nodes[2].fails(&remove(&primary_name));
    assert_eq!(kind, "in_use");
    assert!(text.contains("only copy of volume v that is in sync"), "{text}");
    grow(&nodes, primary);
    let (kind, text) = nodes[2].fails(&remove(&primary_name));
    assert_eq!(kind, "in_use");
    assert!(text.contains("hand it over first"), "{text}");

    nodes[lost].kill();
    eventually("it is missed", || {
        let status = nodes[2].status();
        status.problems.contains(&format!("{lost_name} is not reached.")).then_some(())
    });
    let before = nodes[primary].storage().config().unwrap();
    // Asked of a node that need not lead.
    nodes[2].done(&remove(&lost_name));
    let status = nodes[2].status();
    assert_eq!(voters(&status), std::slice::from_ref(&primary_name), "one votes, not two");
    let one_left = |problem: &String| problem.contains("There is one data node only");
    assert!(status.problems.iter().any(one_left), "{:?}", status.problems);
    assert_eq!(
        (&status.volumes[0].in_sync, &status.volumes[0].replicas),
        (&vec![primary_name.clone()], &vec![primary_name])
    );
    assert_eq!(status.volumes[0].problems, ["There is no other data node to hold a second copy."]);
    let after = eventually("the primary knows", || {
        nodes[primary].storage().config().filter(|config| config.epoch > before.epoch)
    });
    assert_eq!(after.primary, before.primary);
    assert_eq!(after.primary_instance, before.primary_instance, "it serves on");
    eventually("degraded", || (nodes[2].status().volumes[0].state == VolumeState::Degraded).then_some(()));
    // The witness does not vote any more: nothing needs it.
    nodes[2].kill();
    nodes[primary].done(&Command::CreateTarget { iqn: "iqn.2026-11.local.futago:alone".into() });
    std::thread::sleep(nodes[primary].timing().lease * 2);
    assert!(nodes[primary].storage().serves());
    nodes[2].start();

    // The one that was removed comes back, and is told.
    nodes[lost].start();
    let told = eventually("it says so itself", || {
        nodes[lost]
            .status()
            .problems
            .into_iter()
            .find(|problem| problem.contains("was removed from the cluster"))
    });
    assert!(told.starts_with(&format!("{lost_name} is not accepted by ")), "{told}");
    assert!(!nodes[lost].status().cluster.unwrap().quorum);
    assert!(!nodes[primary].status().cluster.unwrap().members.iter().any(|member| member.name == lost_name));
    nodes[lost].kill();

    // Another one at its address, of its name.
    let host = if lost == 0 { 11 } else { 12 };
    let mut replacement = TestNode::new(31, host, &lost_name, Role::Data);
    replacement.start();
    nodes[primary].pair(&replacement);
    assert_eq!(voters(&nodes[primary].status()).len(), 3);
    replacement.start_storage();
    let config = eventually("it has a copy", || replacement.storage().config());
    assert_eq!((config.replicas.len(), config.in_sync.len()), (2, 1));
    let status = nodes[2].status();
    assert!(!status.problems.iter().any(one_left), "{:?}", status.problems);
    nodes[lost] = replacement;
    grow(&nodes, primary);
    nodes[2].done(&Command::HandOver { volume: "v".into(), to: Some(lost_name) });
    eventually("it serves", || nodes[lost].storage().serves().then_some(()));
}

/// What the consoles of two nodes had open, seen from both.
fn opened(from: &TestNode, to: &TestNode) -> (UnixStream, UnixStream) {
    let path = to.dir.join(paths::PEER_SOCKET);
    let console = UnixListener::bind(&path).unwrap();
    let mut asking = UnixStream::connect(from.dir.join(paths::TUNNEL_SOCKET)).unwrap();
    writeln!(asking, "{}", to.settings.name).unwrap();
    let mut answer = [0; 3];
    asking.set_read_timeout(Some(Duration::from_secs(40))).unwrap();
    asking.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"ok\n");
    let (asked, _) = console.accept().unwrap();
    asked.set_read_timeout(Some(Duration::from_secs(40))).unwrap();
    std::fs::remove_file(path).unwrap();
    (asking, asked)
}

#[test]
fn what_the_console_of_a_removed_member_had_open_ends() {
    let (nodes, primary) = serving_trio(53);
    let removed = 1 - primary;
    grow(&nodes, primary);
    let (mut own, _kept) = opened(&nodes[removed], &nodes[2]);
    let (mut asking, _kept_too) = opened(&nodes[2], &nodes[removed]);
    let (mut stays, mut stays_too) = opened(&nodes[2], &nodes[primary]);
    let name = nodes[removed].settings.name.clone();
    eventually("removed", || (nodes[2].command(&remove(&name)) == control::api::Answer::Done).then_some(()));
    for stream in [&mut own, &mut asking] {
        assert_eq!(stream.read(&mut [0; 1]).unwrap(), 0, "the stream of the removed one ends");
    }
    stays.write_all(b"x").unwrap();
    assert_eq!(stays_too.read(&mut [0; 1]).unwrap(), 1);
}

#[test]
fn a_lost_witness_is_removed_and_the_primary_votes_alone() {
    let (mut nodes, primary) = serving_trio(32);
    let other = 1 - primary;
    grow(&nodes, primary);
    nodes[2].kill();
    nodes[other].kill();
    eventually("both are missed", || {
        let problems = nodes[primary].status().problems;
        (problems.iter().filter(|problem| problem.ends_with("is not reached.")).count() == 2).then_some(())
    });
    let (kind, text) = nodes[primary].fails(&remove("witness"));
    assert_eq!(kind, "unavailable");
    assert!(text.contains("no majority"), "{text}");
    assert!(text.contains(&format!("{} is not reached", nodes[other].settings.name)), "{text}");
    nodes[other].start();
    nodes[other].start_storage();
    eventually("they hear each other", || {
        nodes[other].status().cluster.filter(|c| c.quorum && c.leader.is_some())
    });
    eventually("one serves", || (0..2).find(|node| nodes[*node].storage().serves()));
    eventually("removed", || {
        (nodes[other].command(&remove("witness")) == control::api::Answer::Done).then_some(())
    });
    let status = nodes[other].status();
    let serving = (0..2).find(|node| nodes[*node].storage().serves()).unwrap();
    assert_eq!(voters(&status), [nodes[serving].settings.name.clone()]);
    assert!(status.problems.iter().any(|problem| problem.contains("There is no witness")));
    // Whoever votes alone stays, until a third vote is there.
    let alone = nodes[serving].settings.name.clone();
    let (kind, _) = nodes[1 - serving].fails(&remove(&alone));
    assert_eq!(kind, "in_use");
}

/// A volume with one copy gets its second one from a node that is paired later; without room there it says so.
#[test]
fn the_second_copy_comes_with_the_second_node_if_that_has_room() {
    let mut nodes = [TestNode::new(33, 11, "a", Role::Data), TestNode::new(33, 12, "b", Role::Data)];
    for node in &mut nodes {
        node.start();
    }
    nodes[0].done(&Command::CreateCluster { portal: "127.1.33.50:3260".parse().unwrap() });
    nodes[0].start_storage();
    nodes[0].done(&create_volume(64));
    eventually("a serves", || nodes[0].storage().serves().then_some(()));
    let (kind, text) = nodes[0].fails(&remove("a"));
    assert_eq!(kind, "refused", "{text}");
    nodes[1].start_storage();
    nodes[1].storage().limit_free(base::ByteCount::mib(32));
    nodes[0].pair(&nodes[1]);
    let lack = eventually("it lacks room", || nodes[0].status().volumes[0].problems.first().cloned());
    assert!(lack.starts_with("No second copy: b has 32 MiB"), "{lack}");
    assert!(nodes[0].status().problems.contains(&format!("Volume v: {lack}")));
    let (kind, text) = nodes[0].fails(&Command::CreateVolume {
        name: "w".into(),
        size: base::ByteCount::mib(64),
        presentation: control::targets::Presentation::default(),
    });
    assert_eq!(kind, "unavailable");
    assert!(text.starts_with("b has 32 MiB"), "{text}");
    nodes[1].storage().limit_free(base::ByteCount::gib(1));
    let config = eventually("it has a copy", || nodes[1].storage().config());
    assert_eq!((config.replicas.len(), config.in_sync.len()), (2, 1));
    let (kind, text) = nodes[1].fails(&remove("a"));
    assert!(kind == "in_use" || text.contains("a alone votes"), "{kind}: {text}");
    // The vote follows who serves, and does not interrupt it; the other's end then stops nothing.
    grow(&nodes, 0);
    nodes[1].done(&Command::HandOver { volume: "v".into(), to: Some("b".into()) });
    eventually("b serves", || nodes[1].storage().serves().then_some(()));
    let until_it_votes = || {
        assert!(nodes[1].storage().serves(), "the change of voters ended the lease");
        (voters(&nodes[1].status()) == ["b"]).then_some(())
    };
    eventually("b votes alone", until_it_votes);
    nodes[0].kill();
    let end = std::time::Instant::now() + nodes[1].timing().lease * 3;
    while std::time::Instant::now() < end {
        assert!(nodes[1].storage().serves());
        std::thread::sleep(Duration::from_millis(20));
    }
    nodes[1].done(&remove("a"));
}

/// One that was away takes the others for voters still; the witness, which was removed too, knows better.
#[test]
fn two_removed_members_are_no_majority() {
    let (mut nodes, primary) = serving_trio(36);
    let away = 1 - primary;
    grow(&nodes, primary);
    let name = nodes[away].settings.name.clone();
    nodes[away].kill();
    eventually("removed", || {
        (nodes[primary].command(&remove(&name)) == control::api::Answer::Done).then_some(())
    });
    eventually("the witness, too", || {
        (nodes[primary].command(&remove("witness")) == control::api::Answer::Done).then_some(())
    });
    nodes[away].start();
    eventually("it is told", || {
        let problems = nodes[away].status().problems;
        problems.iter().any(|problem| problem.contains("is not accepted by")).then_some(())
    });
    let end = std::time::Instant::now() + nodes[away].timing().lease * 2;
    while std::time::Instant::now() < end {
        assert!(!nodes[away].status().cluster.unwrap().quorum);
        std::thread::sleep(Duration::from_millis(50));
    }
}
