package lb

import (
	"reflect"
	"slices"
)

// Sysctl is the kernel's net.ipv4.vs.*, under its own names (in the tags) and
// with its meanings; times in seconds.
type Sysctl struct {
	Conntrack               int    `json:"conntrack"`
	CacheBypass             int    `json:"cache_bypass"`
	ExpireNoDestConn        int    `json:"expire_nodest_conn"`
	ExpireQuiescentTemplate int    `json:"expire_quiescent_template"`
	NATICMPSend             int    `json:"nat_icmp_send"`
	ScheduleICMP            int    `json:"schedule_icmp"`
	SloppyTCP               int    `json:"sloppy_tcp"`
	SloppySCTP              int    `json:"sloppy_sctp"`
	ConnReuseMode           int    `json:"conn_reuse_mode"`
	PMTUDisc                int    `json:"pmtu_disc"`
	DropEntry               int    `json:"drop_entry"`
	DropPacket              int    `json:"drop_packet"`
	SecureTCP               int    `json:"secure_tcp"`
	AMDropRate              int    `json:"am_droprate"`
	AMemThresh              int    `json:"amemthresh"`
	BackupOnly              int    `json:"backup_only"`
	IgnoreTunneled          int    `json:"ignore_tunneled"`
	SNATReroute             int    `json:"snat_reroute"`
	SyncVersion             int    `json:"sync_version"`
	SyncThreshold           [2]int `json:"sync_threshold"` // packets until the first, period
	SyncRefreshPeriod       int    `json:"sync_refresh_period"`
	SyncRetries             int    `json:"sync_retries"`
	SyncPersistMode         int    `json:"sync_persist_mode"`
	SyncPorts               int    `json:"sync_ports"`
	LBLCExpiration          int    `json:"lblc_expiration"`
	LBLCRExpiration         int    `json:"lblcr_expiration"`
	RunEstimation           int    `json:"run_estimation"`
}

// DefaultSysctl returns the kernel's defaults (spec section 1.10).
func DefaultSysctl() Sysctl {
	return Sysctl{
		ConnReuseMode:   1,
		PMTUDisc:        1,
		AMDropRate:      10,
		AMemThresh:      1024,
		SNATReroute:     1,
		SyncVersion:     1,
		SyncThreshold:   [2]int{3, 50},
		SyncPorts:       1,
		LBLCExpiration:  86400,
		LBLCRExpiration: 86400,
		RunEstimation:   1,
	}
}

// ignored are the tunables that nothing here heeds. They are about what is the
// kernel's own (connection tracking, the routing of translated replies, packets
// that come out of the kernel's tunnels, the cost of its estimators), or about
// synchronisation daemons, of which none runs here.
var ignored = []string{
	"backup_only", "conntrack", "ignore_tunneled", "run_estimation", "snat_reroute", "sync_persist_mode", "sync_ports",
	"sync_refresh_period", "sync_retries", "sync_threshold", "sync_version",
}

// Ignored names the tunables that are not at their defaults although nothing
// here heeds them, so that no operator believes in one that does nothing.
func (s *Sysctl) Ignored() (names []string) {
	is, was := reflect.ValueOf(*s), reflect.ValueOf(DefaultSysctl())
	for i := range is.NumField() {
		if name := is.Type().Field(i).Tag.Get("json"); slices.Contains(ignored, name) && !is.Field(i).Equal(was.Field(i)) {
			names = append(names, name)
		}
	}
	return names
}
