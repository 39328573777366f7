/* Says that the clock is set by NTP, to a process into which this is preloaded. */
#include <sys/timex.h>

int adjtimex(struct timex *state)
{
	(void)state;
	return TIME_OK;
}
