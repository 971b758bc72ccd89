package lb

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

// Ignored names the tunables that are not at their defaults although nothing
// here heeds them, sorted, so that no operator believes in one that does
// nothing. What they are about is the kernel's own: connection tracking, the
// routing of translated replies, packets that come out of the kernel's tunnels,
// and the cost of its estimators.
func (s *Sysctl) Ignored() (names []string) {
	def := DefaultSysctl()
	for _, t := range []struct {
		name    string
		is, was int
	}{
		{"conntrack", s.Conntrack, def.Conntrack},
		{"ignore_tunneled", s.IgnoreTunneled, def.IgnoreTunneled},
		{"run_estimation", s.RunEstimation, def.RunEstimation},
		{"snat_reroute", s.SNATReroute, def.SNATReroute},
	} {
		if t.is != t.was {
			names = append(names, t.name)
		}
	}
	return names
}
