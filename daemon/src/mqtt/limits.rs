//! Limits that a broker states when it accepts the connection, and the features that the device leaves out
//! for them.

use rumqttc::v5::mqttbytes::QoS;
use rumqttc::v5::mqttbytes::v5::{ConnAckProperties, ConnectReturnCode};

#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Limits {
    pub(super) qos: QoS,
    pub(super) retain: bool,
    /// Largest packet the broker takes.
    pub(super) max_packet: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { qos: QoS::AtLeastOnce, retain: true, max_packet: usize::MAX }
    }
}

impl Limits {
    pub(super) fn of(properties: Option<&ConnAckProperties>) -> Self {
        let none = Self::default();
        let Some(said) = properties else { return none };
        Self {
            qos: if said.max_qos == Some(0) { QoS::AtMostOnce } else { none.qos },
            retain: said.retain_available != Some(0),
            max_packet: said.max_packet_size.map_or(none.max_packet, |bytes| bytes as usize),
        }
    }

    /// Lowers the limits if the broker refused the connection for a last will that it cannot keep. The next
    /// connection then asks for less.
    pub(super) fn lower(&mut self, code: ConnectReturnCode) -> bool {
        let before = *self;
        match code {
            ConnectReturnCode::QoSNotSupported => self.qos = QoS::AtMostOnce,
            ConnectReturnCode::RetainNotSupported => self.retain = false,
            _ => {}
        }
        *self != before
    }

    /// The limits that the owner should know of.
    pub(super) fn sentences(self) -> Vec<&'static str> {
        let mut sentences = Vec::new();
        if !self.retain {
            sentences.push(
                "it keeps no retained messages (Mosquitto: retain_available true), so whoever connects later \
                 sees the device only when something changes or Home Assistant starts",
            );
        }
        if self.qos == QoS::AtMostOnce {
            sentences
                .push("it takes QoS 0 only (Mosquitto: max_qos), so messages may be lost without notice");
        }
        sentences
    }
}
