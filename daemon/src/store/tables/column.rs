//! A column of a synced table: its names, and the conversion of its value between both databases.

/// The type of the value in Postgres, and of the value sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Uuid,
    Text,
    Bytes,
    Integer,
    BigInt,
    Double,
    Boolean,
    /// Milliseconds since 1970 here, a `timestamptz` there.
    Time,
    /// Text here, a `jsonb` there.
    Json,
}

/// A column. Every statement calls its value by the name of the row's field.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Column {
    pub(super) field: &'static str,
    kind: Kind,
    /// Name in Postgres.
    there: &'static str,
    /// Expression in SQLite, where `r` is the row; empty: the column of this name.
    here: &'static str,
    /// Expression written there, where `x` is the row; empty: the value.
    written: &'static str,
    /// Most bytes of a value; a longer one comes back as NULL, which makes the row unusable unless the column
    /// may be NULL.
    at_most: Option<u32>,
    looked_for: bool,
    compared: bool,
}

pub(super) const UUID: Column = Column::of(Kind::Uuid);
pub(super) const TEXT: Column = Column::of(Kind::Text);
pub(super) const BYTES: Column = Column::of(Kind::Bytes);
pub(super) const INTEGER: Column = Column::of(Kind::Integer);
pub(super) const BIGINT: Column = Column::of(Kind::BigInt);
pub(super) const DOUBLE: Column = Column::of(Kind::Double);
pub(super) const BOOLEAN: Column = Column::of(Kind::Boolean);
pub(super) const TIME: Column = Column::of(Kind::Time);
pub(super) const JSON: Column = Column::of(Kind::Json);

impl Column {
    const fn of(kind: Kind) -> Self {
        Self {
            field: "",
            kind,
            there: "",
            here: "",
            written: "",
            at_most: None,
            looked_for: false,
            compared: false,
        }
    }

    pub(super) const fn named(self, field: &'static str) -> Self {
        let there = if self.there.is_empty() { field } else { self.there };
        Self { field, there, ..self }
    }

    /// Its name in Postgres, if it differs from the field's.
    pub(super) const fn there(self, there: &'static str) -> Self {
        Self { there, ..self }
    }

    /// Its expression in SQLite, if it is not the column with the field's name.
    pub(super) const fn here(self, here: &'static str) -> Self {
        Self { here, ..self }
    }

    /// The expression written there in place of the value: `x` is the row, `s.sender` the device that sends
    /// it.
    pub(super) const fn written(self, written: &'static str) -> Self {
        Self { written, ..self }
    }

    pub(super) const fn at_most(self, bytes: u32) -> Self {
        Self { at_most: Some(bytes), ..self }
    }

    /// The statement that looks for unwritten rows needs this column.
    pub(super) const fn looked_for(self) -> Self {
        Self { looked_for: true, ..self }
    }

    /// `store check` compares this column.
    pub(super) const fn compared(self) -> Self {
        Self { compared: true, ..self }
    }

    pub(super) fn is_looked_for(&self) -> bool {
        self.looked_for
    }

    pub(super) fn is_compared(&self) -> bool {
        self.compared
    }

    /// Name in Postgres.
    pub(super) fn name_there(&self) -> &'static str {
        self.there
    }

    /// Expression in SQLite.
    pub(super) fn value_here(&self) -> String {
        if self.here.is_empty() { format!("r.{}", self.field) } else { self.here.to_owned() }
    }

    /// Name in SQLite; for a reference it is the field's name.
    pub(super) fn name_here(&self) -> &'static str {
        self.here.strip_prefix("r.").unwrap_or(self.field)
    }

    /// Type of the array of the values of all rows of a batch.
    pub(super) fn array(&self) -> &'static str {
        match self.kind {
            Kind::Uuid => "uuid[]",
            Kind::Text | Kind::Json => "text[]",
            Kind::Bytes => "bytea[]",
            Kind::Integer => "integer[]",
            Kind::BigInt | Kind::Time => "bigint[]",
            Kind::Double => "double precision[]",
            Kind::Boolean => "boolean[]",
        }
    }

    /// The expression written there.
    pub(super) fn value_written(&self) -> String {
        let field = self.field;
        match self.kind {
            _ if !self.written.is_empty() => self.written.to_owned(),
            Kind::Time => format!("timestamptz 'epoch' + x.{field} * interval '1 ms'"),
            Kind::Json => format!("x.{field}::jsonb"),
            _ => format!("x.{field}"),
        }
    }

    /// The expression read there: invalid times and values that are too long become NULL.
    pub(super) fn value_read(&self) -> String {
        let there = self.there;
        let value = match self.kind {
            Kind::Time => format!(
                "CASE WHEN isfinite({there}) THEN round(extract(epoch FROM {there}) * 1000)::bigint END"
            ),
            Kind::Json => format!("{there}::text"),
            _ => there.to_owned(),
        };
        match self.at_most {
            Some(bytes) => format!("CASE WHEN octet_length({value}) <= {bytes} THEN {value} END"),
            None => value,
        }
    }

    /// The value as text, equal to that of [`Self::sum_there`].
    pub(super) fn sum_here(&self) -> String {
        let value = self.value_here();
        match self.kind {
            Kind::Uuid | Kind::Bytes => format!("coalesce(lower(hex({value})), '')"),
            _ => format!("coalesce({value}, '')"),
        }
    }

    pub(super) fn sum_there(&self) -> String {
        let there = self.there;
        match self.kind {
            Kind::Uuid => format!("coalesce(replace({there}::text, '-', ''), '')"),
            Kind::Bytes => format!("coalesce(encode({there}, 'hex'), '')"),
            Kind::Boolean => format!("coalesce({there}::integer::text, '')"),
            Kind::Time => format!("coalesce(round(extract(epoch FROM {there}) * 1000)::bigint::text, '')"),
            _ => format!("coalesce({there}::text, '')"),
        }
    }
}
