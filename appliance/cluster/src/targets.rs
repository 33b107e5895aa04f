//! Targets: their coming and going, LUNs, and who may log in.
//!
//! Invariants
//! - A volume is behind one LUN at most, of all targets together.
//! - A target that has LUNs is not deleted: hosts may be using them.
//! - No CHAP secret serves both directions, of all targets together (RFC 7143 §9.2.1): else an initiator could have the
//!   target answer its own challenge.
//! - No text made here quotes a secret.

use crate::apply::{Applied, refuse};
use crate::command::{Outcome, Refusal, RefusalKind, Severity};
use crate::state::{ClusterState, StateError};
use alloc::{
    collections::{BTreeMap, BTreeSet},
    format,
    string::String,
    vec::Vec,
};
use control::names::{Pattern, is_iscsi_name};
use control::targets::{Access, Chap, MAX_LUN, MAX_PATTERNS, Mapping, Rule, Target};

impl ClusterState {
    pub(crate) fn create_target(&mut self, iqn: &str) -> Applied {
        self.need_cluster()?;
        if !is_iscsi_name(iqn) {
            return refuse(
                RefusalKind::Invalid,
                format!("{iqn:?} is no iSCSI name (iqn.YYYY-MM.domain:text, eui. or naa.)"),
            );
        }
        if self.targets.contains_key(iqn) {
            return refuse(RefusalKind::Exists, format!("target {iqn} exists"));
        }
        let target = Target { iqn: iqn.into(), access: Access::default(), luns: BTreeMap::new() };
        self.targets.insert(iqn.into(), target);
        Ok(Outcome::told(Severity::Info, format!("Target {iqn} was created.")))
    }

    pub(crate) fn delete_target(&mut self, iqn: &str) -> Applied {
        if let Some((lun, _)) = self.target(iqn)?.luns.first_key_value() {
            let text = format!("target {iqn} has LUN {lun}: take its LUNs away first");
            return refuse(RefusalKind::InUse, text);
        }
        self.targets.remove(iqn);
        Ok(Outcome::told(Severity::Warning, format!("Target {iqn} was deleted.")))
    }

    pub(crate) fn map_lun(
        &mut self,
        iqn: &str,
        lun: u16,
        volume: &str,
        read_only: bool,
        initiators: &[Pattern],
    ) -> Applied {
        let id = self.volume_id(volume)?;
        if lun > MAX_LUN {
            return refuse(RefusalKind::Invalid, format!("LUN {lun} is over {MAX_LUN}"));
        }
        check_patterns(initiators)?;
        // One device server per volume: reservations and unit attentions would differ between two LUNs of it.
        for target in self.targets.values() {
            if let Some((other, _)) = target.luns.iter().find(|(_, shown)| shown.volume == id) {
                let text = format!("volume {volume} is LUN {other} of target {} already", target.iqn);
                return refuse(RefusalKind::InUse, text);
            }
        }
        let target = self.target(iqn)?;
        if target.luns.contains_key(&lun) {
            return refuse(RefusalKind::Exists, format!("target {iqn} has a LUN {lun} already"));
        }
        target.luns.insert(lun, Mapping { volume: id, read_only, initiators: initiators.to_vec() });
        Ok(Outcome::told(Severity::Info, format!("Volume {volume} is LUN {lun} of target {iqn}.")))
    }

    pub(crate) fn change_lun(
        &mut self,
        iqn: &str,
        lun: u16,
        read_only: Option<bool>,
        initiators: Option<&[Pattern]>,
    ) -> Applied {
        check_patterns(initiators.unwrap_or_default())?;
        let Some(mapping) = self.target(iqn)?.luns.get_mut(&lun) else {
            return refuse(RefusalKind::NotFound, format!("target {iqn} has no LUN {lun}"));
        };
        let before = mapping.clone();
        mapping.read_only = read_only.unwrap_or(before.read_only);
        if let Some(initiators) = initiators {
            mapping.initiators = initiators.to_vec();
        }
        if *mapping == before {
            return Ok(Outcome::done());
        }
        let access = if mapping.read_only { "read-only" } else { "writable" };
        let to = match mapping.initiators.as_slice() {
            [] => "everyone who may log in".into(),
            [one] => format!("{one}"),
            several => format!("{} patterns of initiators", several.len()),
        };
        let text = format!("LUN {lun} of target {iqn} is {access} now, shown to {to}.");
        Ok(Outcome::told(Severity::Info, text))
    }

    pub(crate) fn unmap_lun(&mut self, iqn: &str, lun: u16) -> Applied {
        match self.target(iqn)?.luns.remove(&lun) {
            Some(_) => {
                Ok(Outcome::told(Severity::Warning, format!("LUN {lun} of target {iqn} was taken away.")))
            }
            None => refuse(RefusalKind::NotFound, format!("target {iqn} has no LUN {lun}")),
        }
    }

    pub(crate) fn allow_initiator(&mut self, iqn: &str, pattern: &Pattern) -> Applied {
        check_patterns(core::slice::from_ref(pattern))?;
        let rules = &mut self.target(iqn)?.access.rules;
        if rules.iter().any(|rule| rule.pattern == *pattern) {
            return refuse(RefusalKind::Exists, format!("target {iqn} allows {pattern} already"));
        }
        if rules.len() >= MAX_PATTERNS {
            return refuse(RefusalKind::Invalid, format!("target {iqn} has {MAX_PATTERNS} rules already"));
        }
        rules.push(Rule { pattern: pattern.clone(), chap: None });
        let only = if rules.len() == 1 { ", and nobody else" } else { "" };
        Ok(Outcome::told(Severity::Info, format!("{pattern} may log in to target {iqn}{only}.")))
    }

    pub(crate) fn deny_initiator(&mut self, iqn: &str, pattern: &Pattern, open: bool) -> Applied {
        let rules = &mut self.target(iqn)?.access.rules;
        let Some(at) = rules.iter().position(|rule| rule.pattern == *pattern) else {
            return refuse(RefusalKind::NotFound, format!("target {iqn} has no rule for {pattern}"));
        };
        // Who takes a rule away wants fewer to come in, not everyone.
        if rules.len() == 1 && !open {
            let text = format!(
                "{pattern} is the last rule of target {iqn}: without it everyone could log in; allow someone else first, \
                 or ask for an open target"
            );
            return refuse(RefusalKind::Refused, text);
        }
        rules.remove(at);
        let then =
            if rules.is_empty() { "everyone may log in now" } else { "sessions that no other covers end" };
        Ok(Outcome::told(Severity::Info, format!("Target {iqn} has no rule for {pattern} any more: {then}.")))
    }

    pub(crate) fn set_chap(&mut self, iqn: &str, pattern: Option<&Pattern>, chap: Option<&Chap>) -> Applied {
        let whose = pattern.map_or_else(String::new, |pattern| format!(" for {pattern}"));
        if let Some(chap) = chap {
            chap.check()
                .map_err(|text| Refusal::new(RefusalKind::Invalid, format!("target {iqn}: {text}")))?;
        }
        let Some(place) = chap_of(&mut self.target(iqn)?.access, pattern) else {
            return refuse(RefusalKind::NotFound, format!("target {iqn} has no rule{whose}"));
        };
        if place.as_ref() == chap {
            return Ok(Outcome::done());
        }
        let before = core::mem::replace(place, chap.cloned());
        if self.has_two_way_secret() {
            let text = format!(
                "target {iqn}: a CHAP secret must not serve both directions, on any target (RFC 7143 §9.2.1)"
            );
            if let Ok(target) = self.target(iqn)
                && let Some(place) = chap_of(&mut target.access, pattern)
            {
                *place = before;
            }
            return refuse(RefusalKind::Invalid, text);
        }
        let how = match chap {
            None => "asks for no CHAP",
            Some(chap) if chap.mutual.is_some() => "asks for mutual CHAP",
            Some(_) => "asks for CHAP",
        };
        Ok(Outcome::told(Severity::Info, format!("Target {iqn} {how}{whose} from the next login on.")))
    }

    /// A secret of an initiator is also one of a target.
    fn has_two_way_secret(&self) -> bool {
        let chaps: Vec<&Chap> = self.targets.values().flat_map(|target| target.access.chaps()).collect();
        let own = |secret: &[u8]| chaps.iter().any(|chap| chap.secret.as_bytes() == secret);
        chaps.iter().filter_map(|chap| chap.mutual.as_ref()).any(|mutual| own(mutual.secret.as_bytes()))
    }

    fn target(&mut self, iqn: &str) -> Result<&mut Target, Refusal> {
        match self.targets.get_mut(iqn) {
            Some(target) => Ok(target),
            None => refuse(RefusalKind::NotFound, format!("target {iqn} does not exist")),
        }
    }

    pub(crate) fn validate_targets(&self) -> Result<(), StateError> {
        let mut shown = BTreeSet::new();
        for (iqn, target) in &self.targets {
            let fault = |text: &str| Err(StateError(format!("target {iqn:?}: {text}")));
            if *iqn != target.iqn {
                return fault("stands under the name of another");
            }
            for (lun, mapping) in &target.luns {
                if !self.volumes.contains_key(&mapping.volume) {
                    return fault(&format!("LUN {lun} shows a volume that does not exist"));
                }
                if !shown.insert(mapping.volume) {
                    return fault(&format!("LUN {lun} shows a volume that another LUN shows"));
                }
                if let Err(refusal) = check_patterns(&mapping.initiators) {
                    return fault(&format!("LUN {lun}: {}", refusal.message));
                }
            }
            let patterns: Vec<Pattern> =
                target.access.rules.iter().map(|rule| rule.pattern.clone()).collect();
            if let Err(refusal) = check_patterns(&patterns) {
                return fault(&refusal.message);
            }
            if let Some(Err(text)) = target.access.chaps().map(Chap::check).find(Result::is_err) {
                return fault(&text);
            }
        }
        if self.has_two_way_secret() {
            return Err(StateError("targets: a CHAP secret serves both directions".into()));
        }
        Ok(())
    }
}

fn chap_of<'a>(access: &'a mut Access, pattern: Option<&Pattern>) -> Option<&'a mut Option<Chap>> {
    match pattern {
        None => Some(&mut access.chap),
        Some(pattern) => {
            access.rules.iter_mut().find(|rule| rule.pattern == *pattern).map(|rule| &mut rule.chap)
        }
    }
}

fn check_patterns(patterns: &[Pattern]) -> Result<(), Refusal> {
    if patterns.len() > MAX_PATTERNS {
        return refuse(RefusalKind::Invalid, format!("more than {MAX_PATTERNS} patterns of initiators"));
    }
    for (at, pattern) in patterns.iter().enumerate() {
        pattern.check().map_err(|text| Refusal::new(RefusalKind::Invalid, text))?;
        if patterns.iter().take(at).any(|other| other == pattern) {
            return refuse(RefusalKind::Invalid, format!("the pattern {pattern} stands there twice"));
        }
    }
    Ok(())
}
