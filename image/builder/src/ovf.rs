//! The OVF descriptor (DMTF DSP0243), rendered from `image/ova/appliance.ovf`.
//!
//! What importers are known to trip over, and the template keeps to: children of an `Item` in alphabetical order with
//! `vmw:Config` last; every `vmw:` key `ovf:required="false"`, as an unknown required key ends the import; property
//! keys without dots, which separate class and instance.

use crate::hardware::Hardware;
use askama::Template;

/// First `AddressOnParent` of the network adapters: what VMware's own exports use.
const FIRST_ADAPTER_ADDRESS: usize = 7;

/// Instance ids up to the system disk's are the template's.
const FIRST_ADAPTER_INSTANCE: usize = 5;

/// The disk as the descriptor names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Disk {
    /// The VMDK's name in the archive.
    pub file_name: String,
    /// The VMDK's size.
    pub file_bytes: u64,
    /// The size that the guest sees.
    pub capacity_bytes: u64,
    /// What the disk takes when nothing but its data is stored.
    pub populated_bytes: u64,
}

#[derive(Template)]
#[template(path = "appliance.ovf", escape = "html")]
struct Descriptor<'a> {
    version: &'a str,
    hardware: &'a Hardware,
    adapters: Vec<Adapter<'a>>,
    disk: &'a Disk,
}

struct Adapter<'a> {
    number: usize,
    instance_id: usize,
    address_on_parent: usize,
    network: &'a str,
}

/// Renders the descriptor.
///
/// # Errors
/// None that this template can cause; the template engine's signature.
pub fn render(version: &str, hardware: &Hardware, disk: &Disk) -> Result<String, askama::Error> {
    let adapters = hardware
        .networks
        .iter()
        .enumerate()
        .map(|(index, network)| Adapter {
            number: index + 1,
            instance_id: FIRST_ADAPTER_INSTANCE + index,
            address_on_parent: FIRST_ADAPTER_ADDRESS + index,
            network: &network.name,
        })
        .collect();
    let mut text = Descriptor { version, hardware, adapters, disk }.render()?;
    text.push('\n');
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use roxmltree::{Document, Node};

    const OVF: &str = "http://schemas.dmtf.org/ovf/envelope/1";
    const VMW: &str = "http://www.vmware.com/schema/ovf";

    fn disk() -> Disk {
        Disk {
            file_name: "futago-1.2.3-disk1.vmdk".into(),
            file_bytes: 4711,
            capacity_bytes: 64 << 20,
            populated_bytes: 65536,
        }
    }

    fn rendered() -> String {
        render("1.2.3", &Hardware::of_the_appliance().unwrap(), &disk()).unwrap()
    }

    fn child<'a>(item: &Node<'a, '_>, name: &str) -> Option<&'a str> {
        item.children().find(|c| c.tag_name().name() == name)?.text()
    }

    #[test]
    fn sizes_and_names_of_the_disk_stand_in_it() {
        let text = rendered();
        let document = Document::parse(&text).unwrap();
        let file = document.descendants().find(|n| n.has_tag_name((OVF, "File"))).unwrap();
        assert_eq!(file.attribute((OVF, "href")), Some("futago-1.2.3-disk1.vmdk"));
        assert_eq!(file.attribute((OVF, "size")), Some("4711"));
        let disk = document.descendants().find(|n| n.has_tag_name((OVF, "Disk"))).unwrap();
        assert_eq!(disk.attribute((OVF, "fileRef")), file.attribute((OVF, "id")));
        assert_eq!(disk.attribute((OVF, "capacity")), Some("67108864"));
        assert_eq!(disk.attribute((OVF, "populatedSize")), Some("65536"));
    }

    #[test]
    fn sections_come_in_the_order_of_the_schema() {
        let text = rendered();
        let document = Document::parse(&text).unwrap();
        let names = |node: Node<'_, '_>| -> Vec<String> {
            node.children().filter(Node::is_element).map(|n| n.tag_name().name().to_owned()).collect()
        };
        assert_eq!(
            names(document.root_element()),
            ["References", "DiskSection", "NetworkSection", "VirtualSystem"]
        );
        let system = document.descendants().find(|n| n.has_tag_name((OVF, "VirtualSystem"))).unwrap();
        assert_eq!(
            names(system),
            ["Info", "Name", "OperatingSystemSection", "VirtualHardwareSection", "ProductSection"]
        );
    }

    #[test]
    fn items_keep_the_importers_rules() {
        let text = rendered();
        let document = Document::parse(&text).unwrap();
        let mut ids = Vec::new();
        for item in document.descendants().filter(|n| n.has_tag_name((OVF, "Item"))) {
            let plain: Vec<&str> = item
                .children()
                .filter(|c| c.is_element() && c.tag_name().namespace() != Some(VMW))
                .map(|c| c.tag_name().name())
                .collect();
            assert!(plain.is_sorted(), "{plain:?}");
            let extensions: Vec<bool> = item
                .children()
                .filter(Node::is_element)
                .map(|c| c.tag_name().namespace() == Some(VMW))
                .collect();
            assert!(extensions.is_sorted(), "vmw: comes last");
            ids.push(child(&item, "InstanceID").unwrap().to_owned());
        }
        let count = ids.len();
        ids.sort();
        ids.dedup();
        assert_eq!(ids.len(), count, "instance ids are unique");
        for extension in document.descendants().filter(|n| n.tag_name().namespace() == Some(VMW)) {
            assert_eq!(extension.attribute((OVF, "required")), Some("false"), "{extension:?}");
        }
    }

    #[test]
    fn the_machine_is_what_the_hardware_file_says() {
        let text = rendered();
        let document = Document::parse(&text).unwrap();
        let items: Vec<(&str, Option<&str>)> = document
            .descendants()
            .filter(|n| n.has_tag_name((OVF, "Item")))
            .map(|item| {
                let subtype = child(&item, "ResourceSubType").or_else(|| child(&item, "VirtualQuantity"));
                (child(&item, "ResourceType").unwrap(), subtype)
            })
            .collect();
        assert_eq!(
            items,
            [
                ("3", Some("2")),
                ("4", Some("1024")),
                ("6", Some("VirtualSCSI")),
                ("17", None),
                ("10", Some("VmxNet3")),
                ("10", Some("VmxNet3"))
            ]
        );
        let kind = document.descendants().find(|n| n.tag_name().name() == "VirtualSystemType").unwrap();
        assert_eq!(kind.text(), Some("vmx-13"));
        let extensions: Vec<(&str, &str)> = document
            .descendants()
            .filter(|n| n.has_tag_name((VMW, "Config")) || n.has_tag_name((VMW, "ExtraConfig")))
            .map(|n| (n.attribute((VMW, "key")).unwrap(), n.attribute((VMW, "value")).unwrap()))
            .collect();
        assert_eq!(
            extensions,
            [
                ("backing.diskMode", "independent_persistent"),
                ("firmware", "efi"),
                ("disk.EnableUUID", "TRUE"),
                ("snapshot.maxSnapshots", "0")
            ]
        );
    }

    #[test]
    fn properties_are_set_by_whoever_deploys_and_travel_in_guestinfo() {
        let text = rendered();
        let document = Document::parse(&text).unwrap();
        let section =
            document.descendants().find(|n| n.has_tag_name((OVF, "VirtualHardwareSection"))).unwrap();
        assert_eq!(section.attribute((OVF, "transport")), Some("com.vmware.guestInfo"));
        let mut keys = Vec::new();
        for property in document.descendants().filter(|n| n.has_tag_name((OVF, "Property"))) {
            let key = property.attribute((OVF, "key")).unwrap();
            assert!(key.bytes().all(|b| b.is_ascii_lowercase() || b == b'_'), "{key}");
            assert_eq!(property.attribute((OVF, "userConfigurable")), Some("true"), "{key}");
            assert!(
                child(&property, "Label").is_some() && child(&property, "Description").is_some(),
                "{key}"
            );
            let preset = property.attribute((OVF, "value")).unwrap();
            assert_eq!(preset, if key == "role" { "data" } else { "" }, "{key}");
            keys.push(key);
        }
        let document = include_str!("../../../docs/image.md");
        for key in &keys {
            assert!(document.contains(&format!("| `{key}` |")), "{key} stands in docs/image.md");
        }
        assert_eq!(
            keys,
            ["hostname", "role", "admin_password_hash", "address", "gateway", "mirror_address", "dns", "ntp"]
        );
    }

    #[test]
    fn names_are_escaped() {
        let mut hardware = Hardware::of_the_appliance().unwrap();
        hardware.networks[1].name = "<a & \"b\">".into();
        let text = render("1", &hardware, &disk()).unwrap();
        let document = Document::parse(&text).unwrap();
        let names: Vec<&str> = document
            .descendants()
            .filter(|n| n.has_tag_name((OVF, "Network")))
            .filter_map(|n| n.attribute((OVF, "name")))
            .collect();
        assert_eq!(names, ["Management", "<a & \"b\">"]);
    }
}
