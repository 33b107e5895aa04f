//! Who may log in, who sees what, and that no secret gets out.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, dead_code)]

mod common;

use common::*;
use control::names::Pattern;
use control::targets::{Admission, BlockFormat, Chap, Login, Presentation, Secret};
use futago_cluster::*;

const IQN: &str = "iqn.2026-11.local.futago:demo";
const OTHER: &str = "eui.02004567a425678d";
const ESX: &str = "iqn.1998-01.com.vmware:esx-1";

fn state() -> ClusterState {
    let mut s = demo();
    done(&mut s, Command::CreateTarget { iqn: IQN.into() });
    done(&mut s, Command::CreateTarget { iqn: OTHER.into() });
    done(&mut s, map_lun(IQN, 5, "demo"));
    s
}

fn done(s: &mut ClusterState, command: Command) -> String {
    let outcome = s.apply(&command);
    s.validate().unwrap();
    let Outcome::Applied { notes } = outcome else { panic!("{command:?}: {outcome:?}") };
    notes.into_iter().map(|note| note.text).collect()
}

fn refused(s: &mut ClusterState, command: Command) -> (RefusalKind, String) {
    let before = s.clone();
    let outcome = s.apply(&command);
    assert_eq!(*s, before, "a refused command changes nothing");
    let Outcome::Refused(refusal) = outcome else { panic!("{command:?}: {outcome:?}") };
    (refusal.kind, refusal.message)
}

fn allow(pattern: &str) -> Command {
    Command::AllowInitiator { iqn: IQN.into(), pattern: Pattern::typed(pattern) }
}

fn deny(pattern: &str, open: bool) -> Command {
    Command::DenyInitiator { iqn: IQN.into(), pattern: Pattern::typed(pattern), open }
}

fn chap(secret: &str, mutual: Option<&str>) -> Chap {
    let login = |secret: &str| Login { user: "array".into(), secret: Secret::new(secret.into()) };
    Chap { user: "host".into(), secret: Secret::new(secret.into()), mutual: mutual.map(login) }
}

fn set_chap(iqn: &str, pattern: Option<&str>, chap: Option<Chap>) -> Command {
    Command::SetChap { iqn: iqn.into(), pattern: pattern.map(Pattern::typed), chap }
}

#[test]
fn rules_come_and_go_and_the_last_one_stays_unless_asked() {
    let mut s = state();
    assert!(done(&mut s, allow("IQN.1998-01.com.vmware:*")).contains("nobody else"));
    assert_eq!(refused(&mut s, allow("iqn.1998-01.com.vmware:*")).0, RefusalKind::Exists);
    assert_eq!(refused(&mut s, allow("no name")).0, RefusalKind::Invalid);
    assert_eq!(s.targets[IQN].access.admit(ESX), Admission::Open);
    assert_eq!(s.targets[IQN].access.admit("iqn.2026-11.local:other"), Admission::Refused);
    assert_eq!(refused(&mut s, deny("iqn.x*", false)).0, RefusalKind::NotFound);
    let (kind, text) = refused(&mut s, deny("iqn.1998-01.com.vmware:*", false));
    assert!(kind == RefusalKind::Refused && text.contains("last rule"), "{text}");
    done(&mut s, allow(ESX));
    done(&mut s, deny("iqn.1998-01.com.vmware:*", false));
    assert!(done(&mut s, deny(ESX, true)).contains("everyone"));
    assert_eq!(s.targets[IQN].access.admit("iqn.2026-11.local:other"), Admission::Open);
    for at in 0..256 {
        done(&mut s, allow(&format!("iqn.2026-11.local:{at}")));
    }
    assert!(refused(&mut s, allow("iqn.2026-11.local:256")).1.contains("256 rules"));
}

#[test]
fn luns_are_masked_and_protected_live() {
    let mut s = state();
    let change = |lun, read_only, initiators: Option<&[&str]>| Command::ChangeLun {
        iqn: IQN.into(),
        lun,
        read_only,
        initiators: initiators.map(|list| list.iter().map(|text| Pattern::typed(text)).collect()),
    };
    assert!(done(&mut s, change(5, Some(true), None)).contains("read-only"));
    assert_eq!(done(&mut s, change(5, Some(true), None)), "", "nothing changed, nothing told");
    done(&mut s, change(5, None, Some(&[ESX])));
    let mapping = &s.targets[IQN].luns[&5];
    assert!(mapping.read_only && mapping.is_shown_to(ESX) && !mapping.is_shown_to("iqn.2026-11.local:a"));
    assert!(done(&mut s, change(5, Some(false), Some(&[]))).contains("everyone"));
    assert_eq!(refused(&mut s, change(6, None, None)).0, RefusalKind::NotFound);
    assert_eq!(refused(&mut s, change(5, None, Some(&["x y"]))).0, RefusalKind::Invalid);
    assert_eq!(refused(&mut s, change(5, None, Some(&[ESX, ESX]))).0, RefusalKind::Invalid);
}

#[test]
fn chap_belongs_to_the_target_or_to_a_rule() {
    let mut s = state();
    let all = chap("for-everyone", None);
    let own = chap("for-this-host", Some("from-the-array"));
    assert!(done(&mut s, set_chap(IQN, None, Some(all.clone()))).contains("asks for CHAP"));
    assert_eq!(refused(&mut s, set_chap(IQN, Some(ESX), Some(own.clone()))).0, RefusalKind::NotFound);
    done(&mut s, allow(ESX));
    assert_eq!(s.targets[IQN].access.admit(ESX), Admission::Chap(&all));
    assert!(done(&mut s, set_chap(IQN, Some(ESX), Some(own.clone()))).contains("mutual"));
    assert_eq!(s.targets[IQN].access.admit(ESX), Admission::Chap(&own));
    done(&mut s, set_chap(IQN, Some(ESX), None));
    done(&mut s, set_chap(IQN, None, None));
    assert_eq!(s.targets[IQN].access.admit(ESX), Admission::Open);
    assert_eq!(refused(&mut s, set_chap("iqn.2026-11.x:none", None, None)).0, RefusalKind::NotFound);
}

#[test]
fn no_secret_serves_both_directions_nor_gets_into_a_text() {
    let mut s = state();
    let mut said = done(&mut s, set_chap(IQN, None, Some(chap("hidden-one-way", Some("hidden-other-way")))));
    said += &refused(&mut s, set_chap(OTHER, None, Some(chap("hidden-other-way", None)))).1;
    said += &refused(&mut s, set_chap(OTHER, None, Some(chap("hidden-too", Some("hidden-one-way"))))).1;
    said += &refused(&mut s, set_chap(OTHER, None, Some(chap("hidden-fine", Some("hidden-one-way"))))).1;
    said += &refused(&mut s, set_chap(OTHER, None, Some(chap("hidden-same", Some("hidden-same"))))).1;
    said += &done(&mut s, set_chap(OTHER, None, Some(chap("hidden-fine!", None))));
    said += &format!("{s:?} {:?}", set_chap(OTHER, None, Some(chap("hidden-fine!", None))));
    said += &format!("{:?}", s.for_storage(A).unwrap());
    assert!(!said.contains("hidden"), "{said}");
    let json = serde_json::to_string(&s).unwrap();
    assert_eq!(serde_json::from_str::<ClusterState>(&json).unwrap(), s);
}

#[test]
fn presentation_is_kept_beside_the_configuration() {
    let mut s = demo();
    assert_eq!(s.volume_named("demo").unwrap().presentation, Presentation::default());
    let presentation = Presentation { block_format: BlockFormat::Native, thin: false };
    let command = Command::CreateVolume {
        id: base::VolumeId(77),
        name: "native".into(),
        size: base::ByteCount::mib(1),
        write_back: false,
        presentation,
    };
    done(&mut s, command);
    let told = s.for_storage(A).unwrap();
    assert_eq!(told.volumes.iter().find(|v| v.name == "native").unwrap().presentation, presentation);
}
