//! Volumes, targets, LUNs, and who may log in, as the browser's user sees them.

use super::fake::Fake;
use super::picture;
use base::ByteCount;
use control::names::Pattern;
use futago_e2e::browser::Browser;
use serde_json::json;

pub(super) fn volumes_and_targets(browser: &Browser, fake: &Fake, url: &str) {
    browser.open(&format!("{url}/volumes"));
    browser.fill("[name=name]", "vm-store");
    browser.fill("[name=size]", "4097");
    browser.click("form[action='/volumes'] button");
    browser.wait_text(".notice", "not a multiple of 4096");
    // What was typed is still there, to be corrected.
    assert_eq!(value(browser, "[name=name]"), "vm-store");
    assert_eq!(value(browser, "[name=size]"), "4097");
    refill(browser, "[name=size]", "40 GiB");
    browser.click("form[action='/volumes'] button");
    browser.wait_text(".notice", "Volume vm-store is created");
    browser.wait_text("#panel-volumes", "vm-store");
    picture(browser, "volumes");
    assert!(
        fake.edit(|w| w.status.volumes.iter().any(|v| v.name == "vm-store" && v.size == ByteCount::gib(40)))
    );

    browser.open(&format!("{url}/targets"));
    browser.fill("[name=iqn]:not([type=hidden])", "two");
    browser.click("form[action='/targets'] button");
    browser.wait_text(".notice", "iqn.2026-11.local.futago:two is created");
    a_lun_more(browser, fake);
    who_may_log_in(browser, fake);

    browser.open(&format!("{url}/volumes/vm-store"));
    browser.wait_text("h1", "vm-store");
    picture(browser, "volume");
    browser.click("a.danger-quiet");
    browser.fill("[name=confirm]", "demo");
    browser.click("#confirm");
    browser.wait_text(".notice", "nothing was deleted");
    browser.click("a.danger-quiet");
    picture(browser, "delete");
    browser.fill("[name=confirm]", "vm-store");
    browser.click("#confirm");
    browser.wait_text(".notice", "Volume vm-store is deleted");
    assert_eq!(fake.edit(|w| w.status.volumes.len()), 1);
}

fn value(browser: &Browser, css: &str) -> String {
    let value = browser.script("return document.querySelector(arguments[0]).value", &json!([css]));
    value.as_str().unwrap().to_owned()
}

/// In place of what stands there.
fn refill(browser: &Browser, css: &str, text: &str) {
    browser.script("document.querySelector(arguments[0]).value = ''", &json!([css]));
    browser.fill(css, text);
}

/// Only volumes that are no LUN are offered, and what was chosen is still there after a refusal.
fn a_lun_more(browser: &Browser, fake: &Fake) {
    let offered = "return [...document.querySelector('[name=volume]').options].map((o) => o.text).join()";
    assert_eq!(browser.script(offered, &json!([])), "vm-store");
    browser.script("document.querySelectorAll('details').forEach((d) => d.open = true)", &json!([]));
    let form = "form[action='/targets/luns']";
    refill(browser, &format!("{form} [name=lun]"), "0");
    browser.fill(&format!("{form} [name=initiators]"), "iqn.1998-01.com.vmware:esx-1");
    browser.click(&format!("{form} [name=read_only]"));
    browser.click(&format!("{form} button"));
    browser.wait_text(".notice", "LUN 0");
    assert_eq!(value(browser, &format!("{form} [name=initiators]")), "iqn.1998-01.com.vmware:esx-1");
    picture(browser, "lun-refused");
    refill(browser, &format!("{form} [name=lun]"), "9");
    browser.click(&format!("{form} button"));
    browser.wait_text(".notice", "Volume vm-store is LUN 9 now");
    browser.wait_text("main", "Every volume is a LUN already");
    let luns = fake.edit(|w| w.status.targets[0].luns.clone());
    assert_eq!((luns[1].lun, luns[1].read_only, luns[1].initiators.len()), (9, true, 1));
    browser.click("a[href$='lun=9'][href*='/targets/remove']");
    browser.click("#confirm");
    browser.wait_text(".notice", "LUN 9 of");
}

/// Rules, CHAP and a mask of the demo's target, the first on the page.
fn who_may_log_in(browser: &Browser, fake: &Fake) {
    let open =
        || browser.script("document.querySelectorAll('details').forEach((d) => d.open = true)", &json!([]));
    browser.wait_text("main", "iqn.1998-01.com.vmware:esx-1");
    for pattern in ["iqn.1998-01.com.vmware:*", "iqn.2026-11.local:backup"] {
        open();
        browser.fill("[name=pattern]", pattern);
        browser.click("form[action='/targets/allow'] button");
        browser.wait_text(".notice", "may log in");
    }
    browser.click("a[href*='pattern=iqn.2026-11.local']");
    browser.wait_text("h1", "CHAP");
    open();
    browser.fill("[name=user]", "backup");
    browser.fill("[name=secret]", "never-shown-again-1");
    browser.fill("[name=mutual_user]", "array");
    browser.fill("[name=mutual_secret]", "never-shown-again-2");
    picture(browser, "chap");
    browser.click("form button.primary");
    browser.wait_text(".notice", "CHAP is set");
    browser.wait_text("main", "backup, mutual array");

    browser.click("a[href*='/targets/luns?']");
    browser.wait_text("h1", "LUN 0: demo");
    browser.click("[name=read_only]");
    browser.fill("[name=initiators]", "iqn.1998-01.com.vmware:esx-?");
    picture(browser, "lun");
    browser.click("form button.primary");
    browser.wait_text(".notice", "is read-only now");
    open();
    picture(browser, "targets");
    let source = browser.script("return document.documentElement.outerHTML", &json!([]));
    assert!(!source.to_string().contains("never-shown"), "a secret came back");

    browser.click("a[href*='/targets/deny?'][href*='backup']");
    browser.wait_text("main", "logged out at once");
    picture(browser, "deny");
    browser.click("#confirm");
    browser.wait_text(".notice", "is gone");
    browser.click("a[href*='/targets/deny?']");
    browser.wait_text("main", "every initiator may log in");
    browser.click("#confirm");
    browser.wait_text(".notice", "is gone");
    let target = fake.edit(|w| w.status.targets[0].clone());
    assert!(target.initiators.is_empty() && target.luns[0].read_only);
    assert_eq!(target.luns[0].initiators, [Pattern::typed("iqn.1998-01.com.vmware:esx-?")]);
}
