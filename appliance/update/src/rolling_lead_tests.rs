//! Who leads, and what is told of each node.

use super::*;

/// A node of the cluster leads, and never does anything to itself; the orders, and who has led.
fn led_from(leader: &'static str, primary: &'static str) -> (Vec<Order>, Vec<&'static str>) {
    let mut world = World::new(primary, Fault::None);
    let mut leaders = vec![leader];
    let mut rolling = Rolling::plan(NEW, &world.view(), &BTreeSet::new()).unwrap();
    loop {
        let leader = *leaders.last().unwrap();
        match rolling.poll(&world.view(), world.now) {
            Decision::Wait(_) => world.advance(),
            Decision::Do(_) if rolling.nodes().first().is_some_and(|node| node == leader) => {
                leaders.push(world.name(rolling.successor(leader).unwrap()));
                rolling = Rolling::plan(NEW, &world.view(), &BTreeSet::new()).unwrap();
            }
            Decision::Do(order) => {
                if let Order::Install { node } | Order::Restart { node } = &order {
                    assert_ne!(node, leader);
                }
                world.obey(&order).unwrap();
            }
            Decision::Finished => return (world.orders, leaders),
            Decision::Stopped(reason) => panic!("{reason}"),
        }
    }
}

#[test]
fn whoever_leads_gives_the_lead_away_before_its_own_turn() {
    let mut world = World::new("a", Fault::None);
    world.run().unwrap();
    for (leader, leaders) in
        [("b", vec!["b", "witness", "a"]), ("a", vec!["a", "b"]), ("witness", vec!["witness", "a"])]
    {
        assert_eq!(led_from(leader, "a"), (world.orders.clone(), leaders), "the same orders whoever leads");
    }
}

#[test]
fn the_step_of_each_node_is_told() {
    let mut world = World::new("a", Fault::None);
    let mut rolling = Rolling::plan(NEW, &world.view(), &BTreeSet::new()).unwrap();
    let mut seen: Vec<(String, NodeStep)> = Vec::new();
    loop {
        let decision = rolling.poll(&world.view(), world.now);
        for NodeProgress { name, step } in rolling.progress() {
            if step != NodeStep::Waiting && !seen.contains(&(name.clone(), step)) {
                seen.push((name, step));
            }
        }
        match decision {
            Decision::Wait(_) => world.advance(),
            Decision::Do(order) => world.obey(&order).unwrap(),
            Decision::Finished => break,
            Decision::Stopped(reason) => panic!("{reason}"),
        }
    }
    let steps =
        |node: &str| seen.iter().filter(|(name, _)| name == node).map(|(_, step)| *step).collect::<Vec<_>>();
    use NodeStep::{HandingOver, Installing, Proving, Restarting, Returning, Updated};
    assert_eq!(steps("b"), [Installing, Restarting, Proving, Returning, Updated]);
    assert_eq!(steps("a"), [Installing, HandingOver, Restarting, Proving, Returning, Updated]);
    assert_eq!(seen.last(), Some(&("witness".into(), Updated)));
}
