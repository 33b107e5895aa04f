#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

use super::*;
use crate::view;
use base::{ByteCount, Epoch};
use control::api::{ClusterStatus, MemberStatus, VolumeState, VolumeStatus};
use control::settings::{Role, Settings};
use ratatui::Terminal;
use ratatui::backend::TestBackend;

fn volume(name: &str) -> VolumeStatus {
    VolumeStatus {
        name: name.into(),
        size: ByteCount(1 << 30),
        epoch: Epoch(3),
        primary: Some("a".into()),
        in_sync: vec!["a".into()],
        replicas: vec!["a".into(), "b".into()],
        unopened: Vec::new(),
        state: VolumeState::Degraded,
        problems: Vec::new(),
        resync: None,
        verify: None,
        resynced_total: ByteCount(0),
        dirty: ByteCount(0),
        logged: ByteCount(0),
        block_format: Default::default(),
        thin: true,
        growth: None,
        not_grown: None,
    }
}

fn member(name: &str, online: bool) -> MemberStatus {
    MemberStatus {
        name: name.into(),
        role: Role::Data,
        online,
        address: "192.0.2.11".parse().unwrap(),
        ports: Default::default(),
        votes: true,
        serving: online,
        free: ByteCount(0),
        capacity: ByteCount(0),
    }
}

fn known(volumes: &[&str]) -> Event {
    let cluster = ClusterStatus {
        id: "00".into(),
        generation: 1,
        leader: Some("a".into()),
        quorum: true,
        members: vec![member("a", true), member("b", false)],
        portal: Some("192.0.2.50:3260".parse().unwrap()),
        formats: None,
    };
    let status = Status {
        node: "a".into(),
        cluster: Some(cluster),
        volumes: volumes.iter().map(|name| volume(name)).collect(),
        targets: Vec::new(),
        sessions: Vec::new(),
        services: Vec::new(),
        problems: vec!["Node b\u{1b}[2J is not heard from.".into()],
    };
    Event::Asked(Ok(Box::new(Snapshot { status, fingerprint: vec!["AB"; 32].join(":") })))
}

fn model(machine: bool) -> Model {
    let json = br#"{"version":1,"name":"a","role":"witness","address":"192.0.2.11","gateway":"192.0.2.1"}"#;
    Model::new(Place {
        name: "a".into(),
        url: Some("https://192.0.2.11/".into()),
        settings: Settings::parse(json).unwrap(),
        machine,
        borrowed: !machine,
    })
}

fn press(model: &mut Model, keys: &[Key]) -> Vec<Command> {
    keys.iter().filter_map(|key| model.handle(Event::Key(*key))).collect()
}

fn screen(model: &Model) -> Vec<String> {
    let mut terminal = Terminal::new(TestBackend::new(view::COLUMNS, view::ROWS)).unwrap();
    terminal.draw(|frame| view::draw(model, frame)).unwrap();
    let cells = terminal.backend().buffer().content().chunks(usize::from(view::COLUMNS));
    cells.map(|row| row.iter().map(|cell| cell.symbol()).collect::<String>().trim_end().to_owned()).collect()
}

#[test]
fn the_screen_of_a_degraded_pair() {
    let mut model = model(true);
    model.handle(known(&["store"]));
    let wanted = format!(
        "-- Futago a {}

  Web console   https://192.0.2.11/
  Certificate   {}
    SHA-256     {}
  Cluster       1 of 2 nodes online, majority
  Volume        store: degraded, served by a
! Node b?[2J is not heard from.









-- Menu {}
> P  Offer pairing                        C  Set the clock
  H  Hand a volume over                   S  Rescue shell
  A  Make a new admin password            F  Factory reset
  B  Link to the support bundle           R  Reboot this node
  N  Configure the network                O  Power off this node
  T  Test the network
-- Arrows Enter: choose   Esc: back   Ctrl-L: draw anew",
        "-".repeat(68),
        "AB:".repeat(16),
        vec!["AB"; 16].join(":"),
        "-".repeat(72),
    );
    assert_eq!(screen(&model).join("\n"), wanted);
}

#[test]
fn the_latest_notices_have_what_room_is_left() {
    let mut model = model(true);
    let long = "The state disk has been repaired; files may be missing. ".repeat(3);
    model.handle(Event::Noticed(vec!["first".into(), long]));
    model.handle(known(&["store"]));
    let rows = screen(&model);
    let first = rows.iter().position(|row| row == "* first").unwrap();
    assert!(rows[first + 1].starts_with("* The state disk has been repaired;"), "{rows:?}");
    assert!(rows[first + 2].starts_with("  ") && rows[first + 3].ends_with("missing."), "{rows:?}");
    model.handle(Event::Noticed((0..100).map(|number| format!("notice {number}")).collect()));
    let rows = screen(&model);
    assert_eq!(rows[16], "* notice 99", "{rows:?}");
    assert!(rows[17].starts_with("-- Menu"));
    assert!(rows[7].starts_with("! Node b"), "{rows:?}");
}

#[test]
fn a_silent_node_is_said_to_be_silent_and_its_old_state_is_gone() {
    let mut model = model(true);
    model.handle(known(&["store"]));
    model.handle(Event::Asked(Err("no answer in 5 s".into())));
    let text = screen(&model).join("\n");
    assert!(text.contains("THE NODE DOES NOT ANSWER: no answer in 5 s"), "{text}");
    assert!(!text.contains("store"), "{text}");
}

#[test]
fn power_needs_a_machine_and_a_yes() {
    let mut ours = model(false);
    assert_eq!(press(&mut ours, &[Key::Char('o'), Key::Char('y')]), []);
    assert_eq!(press(&mut ours, &[Key::Char('q')]), [Command::Quit]);
    let mut machine = model(true);
    assert_eq!(press(&mut machine, &[Key::Char('q')]), [], "nobody to give the terminal back to");
    assert_eq!(press(&mut machine, &[Key::Char('o'), Key::Enter, Key::Char('n')]), []);
    assert_eq!(machine.screen, Screen::Menu);
    assert_eq!(press(&mut machine, &[Key::Char('O'), Key::Char('y')]), [Command::PowerOff]);
    assert_eq!(press(&mut machine, &[Key::Char('r'), Key::Char('y'), Key::Escape]), [], "one at a time");
}

#[test]
fn a_hand_over_is_chosen_confirmed_and_answered() {
    let mut model = model(false);
    press(&mut model, &[Key::Char('h')]);
    assert!(matches!(model.screen, Screen::Message(Err(_))), "no volume yet");
    press(&mut model, &[Key::Enter]);
    model.handle(known(&["one", "two"]));
    press(&mut model, &[Key::Enter, Key::Down, Key::Down]);
    assert!(screen(&model).join("\n").contains("> two"));
    press(&mut model, &[Key::Enter]);
    assert!(screen(&model).join("\n").contains("Hand all 2 volumes of two's node over"));
    assert_eq!(press(&mut model, &[Key::Char('y')]), [Command::HandOver("two".into())]);
    assert_eq!(press(&mut model, &[Key::Char('p')]), [], "under way");
    model.handle(Event::Ended(Err("no peer is in sync".into())));
    assert!(screen(&model).join("\n").contains("Not done: no peer is in sync"));
}

fn type_in(model: &mut Model, text: &str) {
    let keys: Vec<Key> = text.chars().map(Key::Char).collect();
    assert_eq!(press(model, &keys), []);
}

#[test]
fn the_network_is_typed_checked_and_confirmed() {
    let mut model = model(true);
    assert_eq!(press(&mut model, &[Key::Char('n')]), []);
    let shown = screen(&model).join("\n");
    assert!(shown.contains("> Address/prefix length  192.0.2.11/24_"), "{shown}");
    assert!(shown.contains("  Gateway, or nothing    192.0.2.1"), "{shown}");
    press(&mut model, &[Key::Erase; 5]);
    type_in(&mut model, "2/24");
    press(&mut model, &[Key::Enter]);
    type_in(&mut model, "777");
    assert_eq!(press(&mut model, &[Key::Enter]), [], "out of range");
    assert!(screen(&model).join("\n").contains("Not so: setting gateway:"));
    press(&mut model, &[Key::Erase; 3]);
    assert!(!screen(&model).join("\n").contains("Not so"), "about something else");
    assert_eq!(press(&mut model, &[Key::Enter]), []);
    assert!(screen(&model).join("\n").contains("Restart a with address 192.0.2.2/24, gateway 192.0.2.1?"));
    let wanted = Network::typed("192.0.2.2/24", "192.0.2.1").unwrap();
    assert_eq!(press(&mut model, &[Key::Char('y')]), [Command::SetNetwork(wanted)]);
    model.handle(Event::Ended(Ok("done".into())));

    press(&mut model, &[Key::Enter, Key::Char('n'), Key::Char('q'), Key::Escape]);
    assert_eq!(model.screen, Screen::Menu);
    model.handle(known(&[]));
    press(&mut model, &[Key::Char('n')]);
    assert!(screen(&model).join("\n").contains("Not done: a is in a cluster"), "known by its address");
}

#[test]
fn the_network_test_tries_everything_or_what_was_typed() {
    let mut model = model(false);
    model.place.settings.gateway = None;
    assert_eq!(press(&mut model, &[Key::Char('t'), Key::Enter]), [], "nothing is known");
    assert!(screen(&model).join("\n").contains("Not so: neither a gateway nor members"));
    model.place.settings.gateway = Some("192.0.2.1".parse().unwrap());
    model.handle(known(&[]));
    let [Command::Test(checks)] = &press(&mut model, &[Key::Enter])[..] else { panic!("{:?}", model.screen) };
    let tried: Vec<String> = checks.iter().map(|check| format!("{} {}", check.what, check.way)).collect();
    assert_eq!(
        tried,
        [
            "gateway 192.0.2.1",
            "b, cluster 192.0.2.11:7780",
            "b, replication 192.0.2.11:7788",
            "portal 192.0.2.50:3260"
        ]
    );
    let findings = (0..8)
        .map(|number| Finding { check: checks[number % 4].clone(), outcome: Err("no answer in 3 s".into()) });
    model.handle(Event::Tested(findings.collect()));
    let shown = screen(&model);
    assert_eq!(shown.iter().filter(|row| row.contains("FAILED: no answer in 3 s")).count(), 8, "{shown:?}");
    press(&mut model, &[Key::Enter, Key::Char('t')]);
    type_in(&mut model, "192.0.2.9:80");
    let typed = checks::typed("192.0.2.9:80").unwrap();
    assert_eq!(press(&mut model, &[Key::Enter]), [Command::Test(vec![typed])]);
}

#[test]
fn the_clock_is_not_set_under_a_node_that_serves() {
    let mut model = model(true);
    model.handle(known(&["store"]));
    assert_eq!(press(&mut model, &[Key::Char('c')]), []);
    assert!(screen(&model).join("\n").contains("Not done: This node serves store"));
    model.handle(known(&[]));
    assert_eq!(press(&mut model, &[Key::Enter, Key::Char('c')]), [Command::ReadClock]);
    model.handle(Event::Clock(SystemTime::UNIX_EPOCH));
    assert!(screen(&model).join("\n").contains("The clock shows 1970-01-01 00:00:00 UTC."));
    type_in(&mut model, "2026-11-28 01:2");
    assert_eq!(press(&mut model, &[Key::Enter]), []);
    assert!(screen(&model).join("\n").contains("Not so: \"2026-11-28 01:2\" is no time"));
    type_in(&mut model, "3");
    assert_eq!(press(&mut model, &[Key::Enter]), []);
    assert!(screen(&model).join("\n").contains("Set the clock to 2026-11-28 01:23:00 UTC?"));
    let wanted = clock::typed("2026-11-28 01:23").unwrap();
    assert_eq!(press(&mut model, &[Key::Char('y')]), [Command::SetClock(wanted)]);
}

#[test]
fn a_shell_needs_a_machine_and_a_yes() {
    let mut ours = model(false);
    assert_eq!(press(&mut ours, &[Key::Char('s'), Key::Char('y')]), []);
    let mut machine = model(true);
    assert_eq!(press(&mut machine, &[Key::Char('s'), Key::Char('n')]), []);
    assert_eq!(press(&mut machine, &[Key::Char('s'), Key::Char('y')]), [Command::Shell]);
    machine.handle(Event::Ended(Ok("The shell has ended.".into())));
    press(&mut machine, &[Key::Enter]);
    assert_eq!(machine.screen, Screen::Menu);
}

#[test]
fn a_reset_needs_the_name_and_a_phrase_where_it_costs_more() {
    let reset = |model: &mut Model, name: &str| {
        assert_eq!(press(model, &[Key::Char('f')]), []);
        type_in(model, name);
        press(model, &[Key::Enter])
    };
    let mut ours = model(false);
    assert_eq!(press(&mut ours, &[Key::Char('f')]), []);
    assert_eq!(ours.screen, Screen::Menu);

    // A copy elsewhere, served elsewhere: the name is enough.
    let mut spare = model(true);
    let Event::Asked(Ok(mut snapshot)) = known(&["store"]) else { panic!() };
    let members = &mut snapshot.status.cluster.as_mut().unwrap().members;
    members[1].online = true;
    snapshot.status.volumes[0].in_sync = vec!["a".into(), "b".into()];
    snapshot.status.volumes[0].primary = Some("b".into());
    spare.handle(Event::Asked(Ok(snapshot.clone())));
    assert_eq!(reset(&mut spare, "A"), [], "another name");
    let text = screen(&spare).join("\n");
    assert!(text.contains("Not so: this node's name is a"), "{text}");
    assert!(text.contains("Its cluster goes on counting it"), "{text}");
    press(&mut spare, &[Key::Escape]);
    assert_eq!(reset(&mut spare, "a"), [Command::Reset(Vec::new())]);

    for (change, wanted) in [
        ("served", "This node serves store"),
        ("alone", "No other node that answers has store in sync"),
        ("silent", "The node does not say what it holds"),
    ] {
        let mut node = model(true);
        let mut snapshot = snapshot.clone();
        match change {
            "served" => snapshot.status.volumes[0].primary = Some("a".into()),
            _ => snapshot.status.cluster.as_mut().unwrap().members[1].online = false,
        }
        let known: Result<_, String> =
            if change == "silent" { Err("no answer".into()) } else { Ok(snapshot) };
        let lost = stake::lost_by_reset("a", known.as_deref().ok());
        node.handle(Event::Asked(known));
        assert_eq!(reset(&mut node, "a"), [], "{change}");
        let text = screen(&node).join("\n");
        assert!(text.contains(wanted) && text.contains("Type \"accept the loss\""), "{text}");
        type_in(&mut node, "yes");
        assert_eq!(press(&mut node, &[Key::Enter]), [], "{change}");
        press(&mut node, &[Key::Erase; 3]);
        // What was on the screen was accepted, not what comes later.
        node.handle(Event::Asked(Err("no answer".into())));
        type_in(&mut node, ACCEPT);
        assert_eq!(press(&mut node, &[Key::Enter]), [Command::Reset(lost)], "{change}");
    }
}

#[test]
fn a_list_that_shrinks_keeps_a_choice() {
    let mut model = model(false);
    model.handle(known(&["one", "two"]));
    press(&mut model, &[Key::Char('h'), Key::Down]);
    model.handle(known(&["one"]));
    assert_eq!(model.screen, Screen::Volumes(0));
    model.handle(known(&[]));
    assert_eq!(model.screen, Screen::Menu);
}

#[test]
fn the_arrows_reach_every_line_of_both_columns() {
    let mut model = model(true);
    model.place.borrowed = true;
    let last = model.items().count() - 1;
    assert!(last >= MENU_ROWS, "two columns");
    for (keys, chosen) in [
        (vec![Key::Left, Key::Up], 0),
        (vec![Key::Right], MENU_ROWS),
        (vec![Key::Right], MENU_ROWS),
        (vec![Key::Left], 0),
        (vec![Key::Down; last + 3], last),
        (vec![Key::Left], last - MENU_ROWS),
        (vec![Key::Right, Key::Up], last - 1),
    ] {
        assert_eq!(press(&mut model, &keys), []);
        assert_eq!(model.chosen, chosen, "{keys:?}");
    }
    let shown = screen(&model);
    for (_, key, words) in model.items() {
        let text = format!(" {}  {words}", key.to_ascii_uppercase());
        assert!(shown.iter().any(|row| row.contains(&text)), "{text} {shown:?}");
    }
}
