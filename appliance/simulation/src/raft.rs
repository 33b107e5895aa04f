//! Consensus as the rest of the system sees it: three voters with a log each, uncommitted entries included; leaders
//! that don't know that they are none any more; followers that lag. Elections happen in one instant, everything else
//! takes messages, which the world delays and loses.
//!
//! Logs and terms are durable, and how much was known to be committed; who leads is lost with the process.

use cluster::{ClusterState, Command};

/// Voters.
pub(crate) const VOTERS: usize = 3;

/// An entry; `None` is what a new leader writes first, so that it can commit what it found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) term: u64,
    pub(crate) command: Option<Command>,
}

#[derive(Clone, Debug, Default)]
pub(crate) struct Voter {
    pub(crate) term: u64,
    pub(crate) log: Vec<Entry>,
    /// Entries known here to be committed.
    pub(crate) commit: usize,
    pub(crate) leads: bool,
    /// The most that any process of this node knew to be committed.
    pub(crate) durable_commit: usize,
    /// As leader: how much of the log each voter confirmed.
    matched: [usize; VOTERS],
}

/// All voters, and what is truly committed.
#[derive(Clone, Debug, Default)]
pub(crate) struct Raft {
    pub(crate) voters: [Voter; VOTERS],
    /// Entries that a majority has, under a term of its own: what can never be undone. No node knows this.
    pub(crate) committed: Vec<Entry>,
}

impl Raft {
    /// `commands` are committed and known everywhere.
    pub(crate) fn new(commands: Vec<Command>) -> Self {
        let log: Vec<Entry> = commands.into_iter().map(|c| Entry { term: 1, command: Some(c) }).collect();
        let voter = Voter {
            term: 1,
            commit: log.len(),
            durable_commit: log.len(),
            log: log.clone(),
            ..Voter::default()
        };
        Self { voters: [voter.clone(), voter.clone(), voter], committed: log }
    }

    /// What the first `entries` entries of the log of voter `n` come to.
    pub(crate) fn state_at(&self, n: usize, entries: usize) -> ClusterState {
        let mut state = ClusterState::default();
        for command in self.voters[n].log[..entries].iter().filter_map(|entry| entry.command.as_ref()) {
            state.apply(command);
        }
        state
    }

    /// The process of voter `n` is gone.
    pub(crate) fn crash(&mut self, n: usize, forget_commit_to: usize) {
        let voter = &mut self.voters[n];
        voter.leads = false;
        voter.durable_commit = voter.durable_commit.max(voter.commit);
        voter.commit = voter.commit.min(forget_commit_to);
    }

    /// Tries to elect `n`; `reaches(a, b)`: messages pass between them both ways, and b is up.
    pub(crate) fn elect(&mut self, n: usize, reaches: impl Fn(usize, usize) -> bool) -> bool {
        let up_to_date = |of: &Voter| (of.log.last().map_or(0, |e| e.term), of.log.len());
        let mine = up_to_date(&self.voters[n]);
        let granting: Vec<usize> = (0..VOTERS)
            .filter(|v| *v == n || reaches(n, *v) && up_to_date(&self.voters[*v]) <= mine)
            .collect();
        if granting.len() * 2 <= VOTERS {
            return false;
        }
        let term = 1 + granting.iter().map(|v| self.voters[*v].term).max().unwrap_or(0);
        for v in granting {
            self.voters[v].term = term;
            self.voters[v].leads = false;
        }
        let leader = &mut self.voters[n];
        leader.leads = true;
        leader.matched = [0; VOTERS];
        leader.log.push(Entry { term, command: None });
        self.settle();
        true
    }

    /// A leader takes a proposal into its log; others drop it.
    pub(crate) fn propose(&mut self, n: usize, command: Command) -> bool {
        let voter = &mut self.voters[n];
        if voter.leads {
            voter.log.push(Entry { term: voter.term, command: Some(command) });
        }
        voter.leads
    }

    /// A message of the leader of `term` arrives at `to`, with up to `take` entries that it lacks. The answer: the
    /// term of the answerer, and how much of the leader's log it now has.
    pub(crate) fn append(
        &mut self,
        leader: usize,
        term: u64,
        to: usize,
        take: usize,
    ) -> Option<(u64, usize)> {
        let Ok([source, follower]) = self.voters.get_disjoint_mut([leader, to]) else { return None };
        if !source.leads || source.term != term {
            return None;
        }
        if follower.term > term {
            return Some((follower.term, 0));
        }
        follower.term = term;
        follower.leads = false;
        // What is known to be committed is equal.
        let known = follower.commit.min(source.log.len());
        let same = known
            + follower.log[known..].iter().zip(&source.log[known..]).take_while(|(a, b)| a == b).count();
        let upto = source.log.len().min(same + take);
        if upto > same {
            follower.log.truncate(same);
            follower.log.extend_from_slice(&source.log[same..upto]);
        }
        follower.commit = follower.commit.max(source.commit.min(upto));
        self.settle();
        Some((term, upto))
    }

    /// The answer arrives at the leader.
    pub(crate) fn appended(&mut self, leader: usize, from: usize, term: u64, matched: usize) {
        let voter = &mut self.voters[leader];
        if term > voter.term {
            voter.term = term;
            voter.leads = false;
        }
        if !voter.leads || term < voter.term {
            return;
        }
        voter.matched[from] = voter.matched[from].max(matched);
        voter.matched[leader] = voter.log.len();
        let mut matched = voter.matched;
        matched.sort_unstable();
        let majority = matched[VOTERS / 2];
        if majority > voter.commit && voter.log[majority - 1].term == voter.term {
            voter.commit = majority;
        }
    }

    /// Finds out what is truly committed now. It never shrinks or changes: else this simulator is wrong.
    fn settle(&mut self) {
        for n in 0..VOTERS {
            let (term, log) = (self.voters[n].term, &self.voters[n].log);
            let settled = self.committed.len();
            for upto in (settled + 1..=log.len()).rev() {
                if log[upto - 1].term != term {
                    break;
                }
                let has =
                    |v: &&Voter| v.term == term && v.log.get(settled..upto) == Some(&log[settled..upto]);
                if self.voters.iter().filter(has).count() * 2 > VOTERS {
                    assert_eq!(log[..settled], self.committed[..], "simulated consensus");
                    self.committed.extend_from_slice(&log[settled..upto]);
                    break;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn command(name: &str) -> Command {
        Command::DeleteVolume { name: name.into() }
    }

    fn everyone(_: usize, _: usize) -> bool {
        true
    }

    /// One exchange between a leader and a follower.
    fn exchange(raft: &mut Raft, leader: usize, to: usize) {
        let term = raft.voters[leader].term;
        if let Some((term, matched)) = raft.append(leader, term, to, 100) {
            raft.appended(leader, to, term, matched);
        }
    }

    #[test]
    fn a_cut_off_leader_commits_nothing_and_loses_its_tail() {
        let mut raft = Raft::new(vec![command("first")]);
        assert!(raft.elect(0, everyone));
        exchange(&mut raft, 0, 1);
        exchange(&mut raft, 0, 2);
        let settled = raft.committed.len();
        // 0 is cut off and does not know it.
        raft.propose(0, command("lost"));
        assert!(!raft.elect(1, |_, b| b == 9), "no majority");
        assert!(raft.elect(1, |_, b| b != 0));
        raft.propose(1, command("kept"));
        exchange(&mut raft, 1, 2);
        assert!(raft.voters[0].leads && raft.voters[1].leads);
        assert!(raft.committed.len() > settled);
        exchange(&mut raft, 0, 2);
        assert!(!raft.voters[0].leads, "it hears of the new term");
        exchange(&mut raft, 1, 0);
        assert_eq!(raft.voters[0].log, raft.voters[1].log);
        assert!(raft.committed.iter().all(|e| e.command != Some(command("lost"))));
    }

    #[test]
    fn who_lacks_a_committed_entry_is_not_elected() {
        let mut raft = Raft::new(vec![]);
        assert!(raft.elect(0, everyone));
        raft.propose(0, command("x"));
        exchange(&mut raft, 0, 1);
        assert!(!raft.elect(2, everyone));
        assert!(raft.elect(1, everyone));
    }
}
