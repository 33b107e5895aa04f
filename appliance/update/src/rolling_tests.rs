use super::*;
use alloc::string::ToString;
use alloc::vec;
use base::{ByteCount, Epoch};
use control::api::MemberStatus;
use control::targets::BlockFormat;
use control::update::SlotStatus;

#[path = "rolling_lead_tests.rs"]
mod lead;

const OLD: &str = "0.1.0";
const NEW: &str = "0.2.0";
/// A node is away this long, and then out of sync for as long again.
const AWAY: Duration = Duration::from_secs(40);
/// Until its services run.
const PROVING: Duration = Duration::from_secs(10);

/// What goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    None,
    /// The node refuses the update.
    Refused(&'static str),
    /// The node takes the update and restarts before it is installed, or forgets it.
    RestartsInstalling(&'static str),
    Forgets(&'static str),
    /// The node can't be sent the update.
    NotSent(&'static str),
    /// The node starts its old release.
    FallsBack(&'static str),
    /// The node does not come back.
    StaysAway(&'static str),
    /// The node comes back with the release, which some time later, in sync or not, is given up.
    FallsBackLater(&'static str, Duration),
    /// The same, and it starts once more.
    RestartsLater(&'static str, Duration),
    /// The node's services never run.
    NeverProved(&'static str),
    /// The node comes back, and never in sync.
    NeverInSync(&'static str),
    /// Nobody takes the volumes.
    NoHandOver,
    /// They come back to where they were before the restart.
    HandedBack,
    /// The order with this number.
    NotDone(usize),
}

struct Node {
    update: UpdateStatus,
    role: Role,
    /// When it answers again, and when its copies are in sync.
    back: Duration,
    in_sync: Duration,
    /// The release that it starts next.
    next: &'static str,
    failed: bool,
    /// When it has proved itself.
    proved: Duration,
}

struct World {
    nodes: BTreeMap<&'static str, Node>,
    primary: &'static str,
    now: Duration,
    /// Until then a votes alone.
    voting: Duration,
    fault: Fault,
    orders: Vec<Order>,
}

impl World {
    fn new(primary: &'static str, fault: Fault) -> Self {
        let node = |role| Node {
            update: UpdateStatus {
                running: OLD.into(),
                boot: "0".into(),
                slots: Some(SlotStatus {
                    running: "a".into(),
                    next: "a".into(),
                    idle_release: Some(OLD.into()),
                    on_trial: false,
                }),
                installation: None,
            },
            role,
            back: Duration::ZERO,
            in_sync: Duration::ZERO,
            next: OLD,
            failed: false,
            proved: Duration::ZERO,
        };
        let nodes =
            [("a", node(Role::Data)), ("b", node(Role::Data)), ("witness", node(Role::Witness))].into();
        Self { nodes, primary, now: Duration::ZERO, voting: Duration::ZERO, fault, orders: Vec::new() }
    }

    fn online(&self, name: &str) -> bool {
        self.nodes[name].back <= self.now && !self.nodes[name].failed
    }

    fn in_sync(&self) -> Vec<String> {
        let data = self.nodes.iter().filter(|(_, node)| node.role == Role::Data && node.in_sync <= self.now);
        data.filter(|(name, _)| self.online(name)).map(|(name, _)| (*name).into()).collect()
    }

    fn view(&self) -> View {
        let member = |(name, node): (&&str, &Node)| MemberStatus {
            name: (*name).into(),
            role: node.role,
            online: self.online(name),
            address: "192.0.2.1".parse().unwrap(),
            ports: Default::default(),
            votes: name == &"a" || self.voting <= self.now,
            serving: *name == self.primary,
            free: ByteCount(0),
            capacity: ByteCount(0),
        };
        let in_sync = self.in_sync();
        let volume = VolumeStatus {
            name: "demo".into(),
            size: ByteCount(4096),
            growth: None,
            not_grown: None,
            epoch: Epoch(1),
            primary: Some(self.primary.into()),
            state: if in_sync.len() == 2 { VolumeState::Healthy } else { VolumeState::Degraded },
            in_sync,
            replicas: vec!["a".into(), "b".into()],
            unopened: Vec::new(),
            problems: Vec::new(),
            resync: None,
            verify: None,
            resynced_total: ByteCount(0),
            dirty: ByteCount(0),
            logged: ByteCount(0),
            block_format: BlockFormat::default(),
            thin: true,
        };
        let status = Status {
            node: self.primary.into(),
            cluster: Some(ClusterStatus {
                id: "1".into(),
                generation: 1,
                leader: self.nodes.keys().find(|name| self.online(name)).map(|name| (*name).into()),
                quorum: true,
                members: self.nodes.iter().map(member).collect(),
                portal: None,
                formats: None,
            }),
            volumes: vec![volume],
            targets: vec![],
            sessions: vec![],
            services: vec![],
            problems: vec![],
        };
        let answering = self.nodes.iter().filter(|(name, _)| self.online(name));
        let answer = |node: &Node| {
            let mut update = node.update.clone();
            if let Some(slots) = &mut update.slots {
                slots.on_trial = node.proved > self.now;
            }
            update
        };
        let statuses = answering
            .clone()
            .map(|(name, _)| ((*name).into(), Status { node: (*name).into(), ..status.clone() }))
            .collect();
        let nodes = answering.map(|(name, node)| ((*name).into(), answer(node))).collect();
        View { statuses, nodes }
    }

    /// Carries an order out. The invariants: the others are well, and nobody restarts who serves.
    fn obey(&mut self, order: &Order) -> Result<(), &'static str> {
        self.orders.push(order.clone());
        let (now, fault) = (self.now, self.fault);
        let others_are_well = self.nodes.keys().all(|name| self.online(name)) && self.in_sync().len() == 2;
        assert!(others_are_well, "{order:?}");
        match order {
            Order::Install { node } => {
                if fault == Fault::NotSent(self.name(node)) {
                    return Err("the console does not answer");
                }
                if fault == Fault::Forgets(self.name(node)) {
                    return Ok(());
                }
                if fault == Fault::RestartsInstalling(self.name(node)) {
                    self.nodes.get_mut(node.as_str()).unwrap().update.boot = "later".into();
                    return Ok(());
                }
                let refused = fault == Fault::Refused(self.name(node));
                let node = self.nodes.get_mut(node.as_str()).unwrap();
                node.update.installation = Some(if refused {
                    Installation::Failed { reason: "the update is not signed".into() }
                } else {
                    node.next = NEW;
                    Installation::Installed { release: NEW.into() }
                });
            }
            Order::HandOver { volume, to } => {
                assert_eq!(volume, "demo");
                assert_ne!(to, self.primary);
                if fault == Fault::NoHandOver {
                    return Err("no node takes it");
                }
                if fault != Fault::HandedBack {
                    self.primary = self.name(to);
                }
            }
            Order::Restart { node } => {
                assert_ne!(node, self.primary);
                let name = self.name(node);
                let node = self.nodes.get_mut(name).unwrap();
                node.back = now + if fault == Fault::StaysAway(name) { Duration::MAX - now } else { AWAY };
                node.in_sync = node.back.saturating_add(AWAY);
                if fault == Fault::NeverInSync(name) {
                    node.in_sync = Duration::MAX;
                }
                node.proved = node.back.saturating_add(PROVING);
                if fault == Fault::NeverProved(name) {
                    node.proved = Duration::MAX;
                }
                let next = if fault == Fault::FallsBack(name) { OLD } else { node.next };
                node.update = UpdateStatus {
                    running: next.into(),
                    boot: now.as_secs().to_string() + "x",
                    installation: None,
                    ..node.update.clone()
                };
            }
        }
        Ok(())
    }

    /// What happens by itself.
    fn advance(&mut self) {
        self.now += Duration::from_secs(2);
        let (Fault::FallsBackLater(name, after) | Fault::RestartsLater(name, after)) = self.fault else {
            return;
        };
        let node = self.nodes.get_mut(name).unwrap();
        if node.update.running == NEW && self.now >= node.back + after {
            if matches!(self.fault, Fault::FallsBackLater(..)) {
                node.update.running = OLD.into();
            }
            node.update.boot = "later".into();
        }
    }

    fn name(&self, name: &str) -> &'static str {
        self.nodes.keys().find(|known| **known == name).unwrap()
    }

    /// Until it has ended; how.
    fn run(&mut self) -> Result<(), String> {
        let mut rolling = Rolling::plan(NEW, &self.view(), &BTreeSet::new()).unwrap();
        loop {
            match rolling.poll(&self.view(), self.now) {
                Decision::Wait(why) => {
                    assert!(!why.is_empty());
                    self.advance();
                }
                Decision::Do(order) => {
                    if self.fault == Fault::NotDone(self.orders.len()) {
                        rolling.handle_failure("it does not answer");
                        continue;
                    }
                    if let Err(reason) = self.obey(&order) {
                        rolling.handle_failure(reason);
                    }
                }
                Decision::Finished => return Ok(()),
                Decision::Stopped(reason) => {
                    // It stays so.
                    assert_eq!(rolling.poll(&self.view(), self.now), Decision::Stopped(reason.clone()));
                    return Err(reason);
                }
            }
            assert!(self.now < MINUTE * 60 * 30, "no end: {:?}", self.orders);
        }
    }

    fn releases(&self) -> Vec<(&str, &str)> {
        self.nodes.iter().map(|(name, node)| (*name, node.update.running.as_str())).collect()
    }
}

#[test]
fn the_standby_goes_first_then_its_peer_then_the_witness() {
    let mut world = World::new("a", Fault::None);
    assert_eq!(world.run(), Ok(()));
    let install = |node: &str| Order::Install { node: node.into() };
    let restart = |node: &str| Order::Restart { node: node.into() };
    let hand_over = Order::HandOver { volume: "demo".into(), to: "b".into() };
    let expected = [
        install("b"),
        restart("b"),
        install("a"),
        hand_over,
        restart("a"),
        install("witness"),
        restart("witness"),
    ];
    assert_eq!(world.orders, expected);
    assert_eq!(world.releases(), [("a", NEW), ("b", NEW), ("witness", NEW)]);
    // Again: there is nothing to do.
    let mut again = Rolling::plan(NEW, &world.view(), &BTreeSet::new()).unwrap();
    assert_eq!(again.poll(&world.view(), world.now), Decision::Finished);
}

#[test]
fn a_third_member_that_does_not_vote_yet_is_waited_for() {
    let mut world = World::new("a", Fault::None);
    world.voting = MINUTE;
    let mut rolling = Rolling::plan(NEW, &world.view(), &BTreeSet::new()).unwrap();
    let first = rolling.poll(&world.view(), world.now);
    assert!(matches!(&first, Decision::Wait(why) if why.contains("only 1 of 3 nodes vote")), "{first:?}");
    assert_eq!(world.run(), Ok(()));
    assert!(world.now > MINUTE);
    // It does not come to vote.
    let mut world = World::new("a", Fault::None);
    world.voting = Duration::MAX;
    let reason = world.run().unwrap_err();
    assert!(reason.contains("only 1 of 3 nodes vote"), "{reason}");
    assert!(world.orders.is_empty());
}

#[test]
fn the_first_thing_that_goes_wrong_ends_it_and_the_second_node_is_not_touched() {
    for (fault, expected, touched) in [
        (Fault::Refused("b"), "node b: the update is not signed", 1),
        (Fault::RestartsInstalling("b"), "node b restarted while it installed the release", 1),
        (Fault::Forgets("b"), "node b took the update and does not install it", 1),
        (Fault::NotSent("b"), "node b: the console does not answer", 1),
        (Fault::FallsBack("b"), "node b came back with release 0.1.0: release 0.2.0 did not come up", 2),
        (Fault::FallsBackLater("b", PROVING / 2), "node b runs release 0.1.0 again", 2),
        (Fault::FallsBackLater("b", AWAY + AWAY / 2), "node b runs release 0.1.0 again", 5),
        (Fault::FallsBackLater("a", AWAY / 2), "node a runs release 0.1.0 again", 5),
        (Fault::RestartsLater("b", AWAY / 2), "node b has restarted with release 0.2.0", 2),
        (Fault::RestartsLater("witness", PROVING / 2), "node witness has restarted", 7),
        (Fault::NeverProved("b"), "node b has not proved the release after 30 minutes", 2),
        (Fault::NeverProved("b"), "Three restarts of the node go back to the release before", 2),
        (Fault::StaysAway("b"), "node b does not come back after 30 minutes", 2),
        (Fault::NeverInSync("b"), "node b is not back in sync after 1440 minutes", 2),
        (Fault::NoHandOver, "node a: no node takes it", 4),
        (Fault::HandedBack, "node a still serves after 10 minutes", 43),
        (Fault::FallsBack("a"), "node a came back with release 0.1.0", 5),
        (Fault::Refused("witness"), "node witness: the update is not signed", 6),
    ] {
        let mut world = World::new("a", fault);
        let reason = world.run().unwrap_err();
        assert!(reason.contains(expected), "{fault:?}: {reason}");
        assert!(world.orders.len() <= touched, "{fault:?}: {:?}", world.orders);
        if touched <= 2 {
            assert!(
                world.orders.iter().all(|order| !alloc::format!("{order:?}").contains("\"a\"")),
                "{fault:?}"
            );
        }
    }
}

#[test]
fn whatever_order_fails_the_rest_can_be_done_later() {
    for number in 0..7 {
        let mut world = World::new("b", Fault::NotDone(number));
        assert!(world.run().unwrap_err().contains("it does not answer"));
        assert_eq!(world.orders.len(), number, "{:?}", world.orders);
        world.fault = Fault::None;
        world.now += AWAY * 3;
        assert_eq!(world.run(), Ok(()), "without order {number}");
        assert_eq!(world.releases(), [("a", NEW), ("b", NEW), ("witness", NEW)]);
    }
}

#[test]
fn what_can_not_be_updated_is_named_before_anything_is_done() {
    let plan = |world: &World, without: &[&str]| {
        let without = without.iter().map(|name| (*name).to_owned()).collect();
        Rolling::plan(NEW, &world.view(), &without).map(|rolling| rolling.nodes().to_vec())
    };
    let world = World::new("b", Fault::None);
    assert_eq!(plan(&world, &[]), Ok(vec!["a".into(), "b".into(), "witness".into()]));
    assert_eq!(plan(&world, &["witness"]), Ok(vec!["a".into(), "b".into()]));
    assert_eq!(plan(&world, &["nobody"]), Err("there is no node nobody to leave out".into()));

    let mut world = World::new("b", Fault::None);
    world.nodes.get_mut("witness").unwrap().update.slots = None;
    assert!(plan(&world, &[]).unwrap_err().contains("node witness did not start from an appliance's disk"));
    assert!(plan(&world, &["witness"]).is_ok());
    world.nodes.get_mut("witness").unwrap().failed = true;
    assert!(plan(&world, &[]).unwrap_err().contains("console of node witness"));

    let view = View { statuses: BTreeMap::new(), ..world.view() };
    assert!(Rolling::plan(NEW, &view, &BTreeSet::new()).is_err());
}

#[test]
fn a_cluster_that_stops_without_a_node_is_not_begun() {
    for names in [&["a"][..], &["a", "b"]] {
        let mut world = World::new("a", Fault::None);
        world.nodes.retain(|name, _| names.contains(name));
        let reason = Rolling::plan(NEW, &world.view(), &BTreeSet::new()).unwrap_err();
        let has = alloc::format!("has {} of the 3 nodes", names.len());
        for expected in [&*has, "all I/O stops", "futago ctl update FILE --restart"] {
            assert!(reason.contains(expected), "{reason}");
        }
    }
    // Who is left out votes all the same.
    let world = World::new("a", Fault::None);
    assert!(Rolling::plan(NEW, &world.view(), &["witness".to_owned()].into()).is_ok());
}

#[test]
fn nothing_begins_while_something_is_missing() {
    let wait = |view: &View| {
        let mut rolling = Rolling::plan(NEW, view, &["witness".to_owned()].into()).unwrap();
        match rolling.poll(view, Duration::ZERO) {
            Decision::Wait(why) => why,
            other => panic!("{other:?}"),
        }
    };
    let mut world = World::new("b", Fault::None);
    world.nodes.get_mut("witness").unwrap().failed = true;
    assert_eq!(wait(&world.view()), "node witness is not online");
    let mut world = World::new("b", Fault::None);
    world.nodes.get_mut("a").unwrap().in_sync = Duration::MAX;
    assert_eq!(wait(&world.view()), "volume demo is not in sync on a");
    let mut view = World::new("b", Fault::None).view();
    for status in view.statuses.values_mut() {
        status.volumes[0].state = VolumeState::Suspended;
    }
    assert_eq!(wait(&view), "volume demo is not healthy");
    for status in view.statuses.values_mut() {
        status.cluster.as_mut().unwrap().quorum = false;
    }
    assert_eq!(wait(&view), "the nodes have no majority");
}

#[test]
fn who_has_the_release_already_must_have_proved_it_and_keep_it() {
    let mut world = World::new("a", Fault::None);
    let b = world.nodes.get_mut("b").unwrap();
    b.update.running = NEW.into();
    b.proved = MINUTE;
    let mut rolling = Rolling::plan(NEW, &world.view(), &BTreeSet::new()).unwrap();
    let expected = "the release has not proved itself on node b yet";
    assert_eq!(rolling.poll(&world.view(), world.now), Decision::Wait(expected.into()));
    let mut silent = world.view();
    silent.nodes.remove("b");
    assert_eq!(rolling.poll(&silent, world.now), Decision::Wait("node b does not answer".into()));
    world.nodes.get_mut("b").unwrap().update.boot = "1".into();
    let Decision::Stopped(reason) = rolling.poll(&world.view(), world.now) else { panic!() };
    assert!(reason.contains("node b has restarted"), "{reason}");
}

/// What a poll makes of a view, for people.
fn poll(rolling: &mut Rolling, view: &View) -> String {
    match rolling.poll(view, Duration::ZERO) {
        Decision::Wait(why) | Decision::Stopped(why) => why,
        Decision::Do(order) => alloc::format!("{order:?}"),
        Decision::Finished => "finished".into(),
    }
}

fn edit(view: &mut View, node: &str, change: impl FnOnce(&mut Status)) {
    change(view.statuses.get_mut(node).unwrap());
}

#[test]
fn one_view_is_not_enough_and_every_member_has_to_answer() {
    let view = World::new("a", Fault::None).view();
    let plan = || Rolling::plan(NEW, &view, &BTreeSet::new()).unwrap();
    let mut rolling = plan();
    assert!(poll(&mut rolling, &view).contains("once more"));
    for missing in ["a", "b", "witness"] {
        let mut silent = view.clone();
        silent.statuses.remove(missing);
        let expected = alloc::format!("node {missing} does not answer");
        assert_eq!(poll(&mut rolling, &silent), expected);
        assert!(poll(&mut rolling, &view).contains("once more"), "the count begins anew");
        silent.statuses.clone_from(&view.statuses);
        silent.nodes.remove(missing);
        assert_eq!(poll(&mut rolling, &silent), expected);
        assert!(poll(&mut rolling, &view).contains("once more"));
    }
    assert!(poll(&mut rolling, &view).starts_with("Install"));

    let mut silent = view.clone();
    silent.statuses.remove("witness");
    silent.nodes.remove("witness");
    let mut rolling = Rolling::plan(NEW, &silent, &["witness".to_owned()].into()).unwrap();
    assert!(poll(&mut rolling, &silent).contains("once more"));
    assert!(poll(&mut rolling, &silent).starts_with("Install"), "who is left out need not answer");
}

#[test]
fn the_leader_is_believed_and_without_one_whoever_sees_the_least() {
    let view = World::new("a", Fault::None).view();
    let degrade = |status: &mut Status| status.volumes[0].in_sync = vec!["a".into()];
    let obstacle = "volume demo is not in sync on b";
    let first = |view: &View| poll(&mut Rolling::plan(NEW, view, &BTreeSet::new()).unwrap(), view);

    // The leader of these is a.
    let mut seen = view.clone();
    edit(&mut seen, "witness", degrade);
    assert!(first(&seen).contains("once more"), "a follower is behind");
    let mut seen = view.clone();
    edit(&mut seen, "a", degrade);
    assert_eq!(first(&seen), obstacle);

    for stale in ["a", "b", "witness"] {
        let mut seen = view.clone();
        for status in seen.statuses.values_mut() {
            status.cluster.as_mut().unwrap().leader = None;
        }
        edit(&mut seen, stale, degrade);
        assert_eq!(first(&seen), obstacle);
        // Two that both lead: none does.
        edit(&mut seen, "a", |status| status.cluster.as_mut().unwrap().leader = Some("a".into()));
        edit(&mut seen, "b", |status| status.cluster.as_mut().unwrap().leader = Some("b".into()));
        assert_eq!(first(&seen), obstacle);
    }
}

#[test]
fn a_node_restarts_when_nobody_has_it_as_serving_in_two_views() {
    let mut world = World::new("a", Fault::None);
    let mut rolling = Rolling::plan(NEW, &world.view(), &BTreeSet::new()).unwrap();
    let handed_over =
        |world: &World| world.orders.last().is_some_and(|order| matches!(order, Order::HandOver { .. }));
    while !handed_over(&world) {
        match rolling.poll(&world.view(), world.now) {
            Decision::Do(order) => world.obey(&order).unwrap(),
            Decision::Wait(_) => world.advance(),
            end => panic!("{end:?}"),
        }
    }
    // The witness has not heard of it.
    let mut behind = world.view();
    edit(&mut behind, "witness", |status| status.volumes[0].primary = Some("a".into()));
    for _ in 0..3 {
        let decision = rolling.poll(&behind, world.now);
        assert_eq!(decision, Decision::Wait("node a hands volume demo over".into()));
    }
    for _ in 0..2 {
        let Decision::Wait(why) = rolling.poll(&world.view(), world.now) else { panic!() };
        assert!(why.contains("once more"), "{why}");
    }
    assert_eq!(rolling.poll(&world.view(), world.now), Decision::Do(Order::Restart { node: "a".into() }));
}

type Change = fn(&mut Status);

#[test]
fn consoles_of_other_clusters_and_other_nodes_are_refused() {
    let view = World::new("a", Fault::None).view();
    let strange = |status: &mut Status| status.cluster.as_mut().unwrap().id = "2".into();
    let renamed = |status: &mut Status| status.node = "c".into();
    let alone = |status: &mut Status| status.cluster = None;
    let changes: [(Change, &str, Option<&str>); 3] = [
        (strange, "node b is in another cluster, 2, not in 1", Some("node b is in another cluster now, 2")),
        (renamed, "node c is no member", Some("the console of node b is that of node c now")),
        // It may have just started.
        (alone, "node b is in no cluster", None),
    ];
    for (change, at_first, later) in changes {
        let mut seen = view.clone();
        edit(&mut seen, "b", change);
        let reason = Rolling::plan(NEW, &seen, &BTreeSet::new()).unwrap_err();
        assert!(reason.contains(at_first), "{reason}");
        let mut rolling = Rolling::plan(NEW, &view, &BTreeSet::new()).unwrap();
        match (rolling.poll(&seen, Duration::ZERO), later) {
            (Decision::Stopped(reason), Some(later)) => assert_eq!(reason, later),
            (Decision::Wait(why), None) => assert_eq!(why, "node b does not answer"),
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn a_cluster_that_is_not_whole_is_waited_for_and_then_left() {
    let mut world = World::new("a", Fault::None);
    let mut rolling = Rolling::plan(NEW, &world.view(), &BTreeSet::new()).unwrap();
    world.nodes.get_mut("witness").unwrap().failed = true;
    assert_eq!(rolling.poll(&world.view(), world.now), Decision::Wait("node witness is not online".into()));
    world.now += WHOLE_PATIENCE;
    let Decision::Stopped(reason) = rolling.poll(&world.view(), world.now) else { panic!() };
    assert_eq!(reason, "nothing more was done to node b: node witness is not online");
}
