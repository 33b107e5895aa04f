//! Runs libiscsi's conformance suite against a logical unit, whose data it destroys, and prints the verdicts.
//!
//! `conformance URL [FAMILY…]`: all tests, or those of some families (`Read10`, `iSCSIResiduals`).

use std::process::ExitCode;

use futago_e2e::conformance::{self, Verdict};

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    let Some(url) = arguments.next().filter(|url| url.starts_with("iscsi://")) else {
        eprintln!("usage: conformance iscsi://[USER%PASSWORD@]HOST[:PORT]/TARGET/LUN [FAMILY…]");
        return ExitCode::from(2);
    };
    let families: Vec<String> = arguments.collect();
    let wanted = |name: &String| {
        families.is_empty() || name.split('.').next().is_some_and(|f| families.iter().any(|x| x == f))
    };
    let report = conformance::tests().and_then(|tests| {
        let tests: Vec<String> = tests.into_iter().filter(wanted).collect();
        conformance::run(&url, &tests, |case| {
            println!("{:5} {} {:.1} s", case.verdict, case.name, case.elapsed.as_secs_f32());
        })
    });
    match report {
        Ok(report) => {
            println!("\n{report}");
            let clean = report.cases.iter().all(|case| matches!(case.verdict, Verdict::Pass | Verdict::Skip));
            ExitCode::from(u8::from(!clean))
        }
        Err(error) => {
            eprintln!("conformance: {error:#}");
            ExitCode::from(2)
        }
    }
}
