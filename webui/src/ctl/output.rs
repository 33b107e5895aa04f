//! What people read: aligned tables, sizes in binary units. Pure.

use crate::text;
use crate::views::words;
use control::api::{
    ChapStatus, Event, MemberStatus, SessionStatus, Status, TargetStatus, VolumeStatus, moving_with,
    redundancy,
};
use control::names::Pattern;
use control::service::ServiceStatus;
use control::settings::Role;
use std::fmt::Write;
use std::net::SocketAddr;

/// Rows with a heading, columns two spaces apart.
fn table(heading: &[&str], rows: &[Vec<String>]) -> String {
    let heading: Vec<String> = heading.iter().map(|&h| h.to_owned()).collect();
    let mut widths = vec![0; heading.len()];
    for row in std::iter::once(&heading).chain(rows) {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = cell.chars().count().max(*width);
        }
    }
    let mut out = String::new();
    for row in std::iter::once(&heading).chain(rows) {
        let cells: Vec<String> =
            widths.iter().zip(row).map(|(&width, cell)| format!("{cell:<width$}")).collect();
        out.push_str(cells.join("  ").trim_end());
        out.push('\n');
    }
    out
}

fn or_dash(text: Option<&str>) -> String {
    text.unwrap_or("-").to_owned()
}

fn list(names: &[String]) -> String {
    if names.is_empty() { "-".to_owned() } else { names.join(",") }
}

pub(super) fn status(status: &Status) -> String {
    let mut out = String::new();
    // Writing to a string cannot fail.
    let _ = match &status.cluster {
        None => writeln!(out, "Node {} is in no cluster.\n", status.node),
        Some(c) => {
            let quorum = if c.quorum { "majority" } else { "NO MAJORITY" };
            let portal = c.portal.map_or_else(|| "-".to_owned(), |p| p.to_string());
            let _ = writeln!(
                out,
                "Cluster {}, generation {}, {quorum}, leader {}, portal {portal}; seen from {}\n",
                c.id,
                c.generation,
                or_dash(c.leader.as_deref()),
                status.node
            );
            if let Some(levels) = &c.formats {
                let versions = levels.each().map(|(format, level)| format!("{level} of {format}"));
                let _ = writeln!(out, "Written in version {}.\n", versions.join(", "));
            }
            writeln!(out, "{}", members(&c.members))
        }
    };
    for (title, body) in [
        ("volumes", volumes(&status.volumes)),
        ("targets", targets(&status.targets, None)),
        ("services", services(&status.services)),
    ] {
        let _ =
            if body.lines().count() < 2 { writeln!(out, "No {title}.\n") } else { writeln!(out, "{body}") };
    }
    for problem in &status.problems {
        let _ = writeln!(out, "! {problem}");
    }
    out.truncate(out.trim_end().len());
    out.push('\n');
    out
}

/// Who serves `volume` now, and what else: all volumes of a primary move together.
pub(super) fn handed_over(volume: &str, status: &Status) -> String {
    let Some(moved) = status.volumes.iter().find(|v| v.name == volume) else {
        return format!("{volume} is handed over\n");
    };
    let by = moved.primary.as_deref().unwrap_or("another node");
    match moving_with(&status.volumes, moved).as_slice() {
        [_] => format!("{volume} is served by {by} now\n"),
        all => format!("{} are served by {by} now\n", all.join(", ")),
    }
}

pub(super) fn members(members: &[MemberStatus]) -> String {
    let rows: Vec<Vec<String>> = words::in_order(members)
        .into_iter()
        .map(|m| {
            let capacity = if m.capacity.0 == 0 { "-".to_owned() } else { m.capacity.to_string() };
            let free = if m.capacity.0 == 0 { "-".to_owned() } else { m.free.to_string() };
            vec![
                m.name.clone(),
                words::role(m.role).to_owned(),
                if m.online { "online" } else { "OFFLINE" }.to_owned(),
                if m.votes { "yes" } else { "no" }.to_owned(),
                if m.serving { "yes" } else { "no" }.to_owned(),
                m.address.to_string(),
                free,
                capacity,
            ]
        })
        .collect();
    table(&["NODE", "ROLE", "STATE", "VOTES", "SERVING", "ADDRESS", "FREE", "CAPACITY"], &rows)
}

/// Who is left after a node was removed, and what they can't do.
pub(super) fn removed(name: &str, left: &[MemberStatus]) -> String {
    let lacks = lacks(left).map(|text| format!("! {text}\n"));
    format!("{name} is no member any more\n\n{}{}", members(left), lacks.unwrap_or_default())
}

/// What so few can't do by themselves.
fn lacks(left: &[MemberStatus]) -> Option<&'static str> {
    redundancy(left.iter().filter(|member| member.role == Role::Data).count(), left.len())
}

pub(super) fn volumes(volumes: &[VolumeStatus]) -> String {
    let rows: Vec<Vec<String>> = volumes
        .iter()
        .map(|v| {
            let resync = v.resync.as_ref().map_or_else(
                || "-".to_owned(),
                |r| {
                    let left = r.eta_s.map_or_else(String::new, |s| format!(", {} left", text::duration(s)));
                    format!("{}→{} {} %, {}{left}", r.source, r.target, r.percent, text::rate(r.bytes_per_s))
                },
            );
            vec![
                v.name.clone(),
                v.growth.as_ref().map_or_else(|| v.size.to_string(), |g| format!("{}→{}", v.size, g.size)),
                words::volume(v.state).word.to_owned(),
                or_dash(v.primary.as_deref()),
                list(&v.in_sync),
                list(&v.replicas),
                v.epoch.0.to_string(),
                resync,
            ]
        })
        .collect();
    table(&["VOLUME", "SIZE", "STATE", "PRIMARY", "IN SYNC", "COPIES", "EPOCH", "RESYNC"], &rows)
}

pub(super) fn targets(targets: &[TargetStatus], portal: Option<SocketAddr>) -> String {
    let mut rows = Vec::new();
    for t in targets {
        let dash = || "-".to_owned();
        let (allowed, proof) = (allowed(t), proof_in_short(t));
        if t.luns.is_empty() {
            rows.push(vec![t.iqn.clone(), dash(), dash(), dash(), allowed.clone(), proof.clone()]);
        }
        for l in &t.luns {
            let access = words::access(l.read_only).to_owned();
            rows.push(vec![
                t.iqn.clone(),
                l.lun.to_string(),
                l.volume.clone(),
                access,
                allowed.clone(),
                proof.clone(),
            ]);
        }
    }
    let body = table(&["TARGET", "LUN", "VOLUME", "ACCESS", "ALLOWED", "CHAP"], &rows);
    portal.map_or_else(|| body.clone(), |p| format!("Portal {p}\n\n{body}"))
}

/// Who may log in, in short.
fn allowed(target: &TargetStatus) -> String {
    match target.initiators.as_slice() {
        [] => "everyone".to_owned(),
        [one] => one.pattern.to_string(),
        several => format!("{} rules", several.len()),
    }
}

/// What an initiator must know, without what is secret.
fn proof(chap: Option<&ChapStatus>) -> String {
    match chap {
        None => "-".to_owned(),
        Some(ChapStatus { user, mutual: None, .. }) => format!("user {user}"),
        Some(ChapStatus { user, mutual: Some(own), .. }) => format!("user {user}, mutual {}", own.user),
    }
}

/// CHAP of those who are allowed, in short.
fn proof_in_short(target: &TargetStatus) -> String {
    let mut rules = target.initiators.iter().map(|rule| rule.chap.as_ref().or(target.chap.as_ref()));
    let first = rules.next().unwrap_or(target.chap.as_ref());
    if rules.all(|other| other == first) { proof(first) } else { "differs by rule".to_owned() }
}

/// One target in full.
pub(super) fn target(target: &TargetStatus, sessions: &[&SessionStatus]) -> String {
    let everyone = || "everyone".to_owned();
    let luns: Vec<Vec<String>> = target
        .luns
        .iter()
        .map(|l| {
            let shown: Vec<&str> = l.initiators.iter().map(Pattern::as_str).collect();
            let shown = if shown.is_empty() { everyone() } else { shown.join(",") };
            vec![l.lun.to_string(), l.volume.clone(), words::access(l.read_only).to_owned(), shown]
        })
        .collect();
    let mut rules: Vec<Vec<String>> = target
        .initiators
        .iter()
        .map(|rule| {
            let chap = rule.chap.as_ref().or(target.chap.as_ref());
            vec![rule.pattern.to_string(), proof(chap)]
        })
        .collect();
    let rest = if rules.is_empty() { "everyone" } else { "unless a rule has its own" };
    rules.push(vec![rest.to_owned(), proof(target.chap.as_ref())]);
    let sessions: Vec<Vec<String>> =
        sessions.iter().map(|s| vec![s.initiator.clone(), s.address.to_string(), s.node.clone()]).collect();
    [
        format!("Target {}\n", target.iqn),
        table(&["LUN", "VOLUME", "ACCESS", "SHOWN TO"], &luns),
        table(&["ALLOWED", "CHAP"], &rules),
        table(&["LOGGED IN", "FROM", "SERVED BY"], &sessions),
    ]
    .join("\n")
}

fn services(services: &[ServiceStatus]) -> String {
    let rows: Vec<Vec<String>> = services
        .iter()
        .map(|s| {
            let state = words::service(s.state).word.to_owned();
            vec![s.name.clone(), state, s.restarts.to_string(), text::stamp(s.since)]
        })
        .collect();
    table(&["SERVICE", "STATE", "RESTARTS", "SINCE"], &rows)
}

pub(super) fn events(events: &[Event]) -> String {
    let rows: Vec<Vec<String>> = events
        .iter()
        .map(|e| vec![e.number.to_string(), text::event_time(e), e.severity.clone(), e.text.clone()])
        .collect();
    table(&["NUMBER", "TIME", "SEVERITY", "EVENT"], &rows)
}

#[cfg(test)]
mod tests {
    use super::*;
    use control::api::{IsSet, RuleStatus};

    #[test]
    fn chap_is_shown_as_it_is_asked_for() {
        let chap = |user: &str| ChapStatus { user: user.into(), secret: IsSet::Set, mutual: None };
        let rule = |text: &str, chap: Option<ChapStatus>| RuleStatus { pattern: Pattern::typed(text), chap };
        let with = |initiators| TargetStatus {
            iqn: "iqn.2026-11.x:t".into(),
            luns: vec![],
            initiators,
            chap: Some(chap("whole")),
        };
        for (rules, short) in [
            (vec![], "user whole"),
            (vec![rule("iqn.a*", None)], "user whole"),
            (vec![rule("iqn.a*", Some(chap("own")))], "user own"),
            (vec![rule("iqn.a*", Some(chap("own"))), rule("iqn.b*", None)], "differs by rule"),
        ] {
            let target = with(rules);
            assert_eq!(proof_in_short(&target), short);
            let full = super::target(&target, &[]);
            assert!(full.contains("user whole"), "{full}");
            assert_eq!(full.contains("user own"), target.initiators.iter().any(|r| r.chap.is_some()));
        }
    }

    #[test]
    fn columns_are_aligned() {
        let rows = [vec!["a".to_owned(), "läng".to_owned()], vec!["bbbb".to_owned(), "c".to_owned()]];
        assert_eq!(table(&["N", "VALUE"], &rows), "N     VALUE\na     läng\nbbbb  c\n");
    }
}
