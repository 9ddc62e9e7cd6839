//! The list `devices`: who is who must not contradict itself.

use std::collections::HashMap;
use std::fmt;
use std::hash::Hash;
use std::net::IpAddr;

use serde_json::Value;

use super::effective::{Device, MAX_DEVICES};
use super::problem::{Place, Problems};
use super::raw::RawDevice;
use super::sections::read_item;
use crate::model::{MacAddress, ThingName};

/// What a thing name may be, for messages.
pub(super) const THING_NAME_EXPECTED: &str = "write a thing name of 1 to 128 of a-z A-Z 0-9 : _ -";

/// Which thing an address stands under so far, and where.
struct Claims<A>(HashMap<A, (usize, Place)>);

impl<A: Copy + Eq + Hash + fmt::Display> Claims<A> {
    /// Adds `address` to `list`, the addresses of the thing `index` (`None`: its name is wrong), unless another thing
    /// has it. Written twice under the same thing it counts once.
    fn claim(
        &mut self,
        address: A,
        place: &Place,
        value: &Value,
        things: &[(Option<ThingName>, Place)],
        list: &mut Vec<A>,
        problems: &mut Problems,
    ) {
        let index = things.len().saturating_sub(1);
        match self.0.get(&address) {
            None => {
                self.0.insert(address, (index, place.clone()));
                list.push(address);
            }
            Some((owner, _)) if *owner == index => {}
            // The name itself was refused as used twice.
            Some((owner, _)) if same_thing(things, *owner, index) => {}
            Some((owner, first)) => {
                let name = |index: usize| match things.get(index) {
                    Some((Some(name), _)) => format!("thing {name}"),
                    _ => "a thing without a valid name".to_owned(),
                };
                let (this, other) = (name(index), name(*owner));
                problems.push(place.problem(
                    value,
                    format!(
                        "stands under {this} here and under {other} at {}",
                        first.seen_from(place)
                    ),
                    "an address belongs to one thing, remove it from the other",
                ));
            }
        }
    }
}

/// True when the things `a` and `b` have the same valid name.
fn same_thing(things: &[(Option<ThingName>, Place)], a: usize, b: usize) -> bool {
    match (things.get(a), things.get(b)) {
        (Some((Some(a), _)), Some((Some(b), _))) => a == b,
        _ => false,
    }
}

/// The devices of all lists, main configuration first.
pub(super) fn check(items: Vec<(Place, Value)>, problems: &mut Problems) -> Vec<Device> {
    if items.len() > MAX_DEVICES {
        let (count, place) = (items.len(), Place::document(None).child("devices"));
        problems.push(place.key_problem(
            format!("has {count} entries, more than {MAX_DEVICES}"),
            "split the site over several core devices",
        ));
        return Vec::new();
    }
    let mut names: HashMap<ThingName, Place> = HashMap::new();
    // Parallel to the items, valid or not, so that an error can name the other thing.
    let mut things: Vec<(Option<ThingName>, Place)> = Vec::new();
    let mut macs = Claims::<MacAddress>(HashMap::new());
    let mut addresses = Claims::<IpAddr>(HashMap::new());
    let mut devices = Vec::new();
    for (place, item) in items {
        let Some(raw) = read_item::<RawDevice>(item, &place, problems) else {
            continue;
        };
        let name = thing_name(&place.child("thingName"), raw.thing_name.as_ref(), &mut names, problems);
        things.push((name.clone(), place.clone()));

        let mut device_macs = Vec::new();
        for (place, item) in problems.items(&place.child("macs"), raw.macs) {
            let expected = "write a device's MAC address such as 02:aa:00:00:00:01";
            if let Some(mac) = problems.text(&place, &item, expected, mac_address) {
                macs.claim(mac, &place, &item, &things, &mut device_macs, problems);
            }
        }
        let mut device_addresses = Vec::new();
        for (place, item) in problems.items(&place.child("addresses"), raw.addresses) {
            let expected = "write a device's IP address such as 10.0.0.5 or fd00::5";
            if let Some(address) = problems.text(&place, &item, expected, ip_address) {
                addresses.claim(address, &place, &item, &things, &mut device_addresses, problems);
            }
        }
        let report = raw
            .report
            .and_then(|value| problems.switch(&place.child("report"), &value))
            .unwrap_or(true);
        if let Some(thing_name) = name {
            devices.push(Device {
                thing_name,
                macs: device_macs,
                addresses: device_addresses,
                report,
            });
        }
    }
    devices
}

fn thing_name(
    place: &Place,
    value: Option<&Value>,
    names: &mut HashMap<ThingName, Place>,
    problems: &mut Problems,
) -> Option<ThingName> {
    let Some(value) = value else {
        problems.push(place.key_problem("is missing", THING_NAME_EXPECTED));
        return None;
    };
    let name: ThingName = problems.text(place, value, THING_NAME_EXPECTED, |text| {
        text.parse().map_err(|_| "is not a thing name".to_owned())
    })?;
    if let Some(first) = names.get(&name) {
        problems.push(place.problem(
            value,
            format!("is already used at {}", first.seen_from(place)),
            "list a thing once, with all its addresses",
        ));
    } else {
        names.insert(name.clone(), place.clone());
    }
    Some(name)
}

fn mac_address(text: &str) -> Result<MacAddress, String> {
    let mac: MacAddress = text.parse().map_err(|_| "is not a MAC address".to_owned())?;
    if mac.is_zero() {
        return Err("belongs to no device (all zero)".to_owned());
    }
    if mac.is_group() {
        return Err("belongs to no single device (a group address)".to_owned());
    }
    Ok(mac)
}

fn ip_address(text: &str) -> Result<IpAddr, String> {
    let address: IpAddr = text.parse().map_err(|_| "is not an IP address".to_owned())?;
    let address = address.to_canonical();
    let broadcast = matches!(address, IpAddr::V4(v4) if v4.is_broadcast());
    if address.is_unspecified() || address.is_loopback() || address.is_multicast() || broadcast {
        return Err("belongs to no device on a LAN".to_owned());
    }
    Ok(address)
}
